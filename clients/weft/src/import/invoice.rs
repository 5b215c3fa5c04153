//! Reads online-retail CSV as a stream, one invoice at a time. Each line of the file is one item.

use std::io::{self, BufRead};

use money::{Currency, Money};
use time::{PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

use super::csv::{Line, Lines};

/// Consecutive lines of the file with the same invoice number.
#[derive(Debug, PartialEq)]
pub(crate) struct Invoice {
    /// With a leading C for a cancellation.
    pub(crate) number: String,
    /// Empty for a walk-in customer.
    pub(crate) customer: String,
    pub(crate) items: Vec<Item>,
    pub(crate) faults: Vec<Fault>,
}

/// One readable line.
#[derive(Debug, PartialEq)]
pub(crate) struct Item {
    /// The line in the file; the heading is line 1.
    pub(crate) line: u64,
    /// The line in the invoice, from 1.
    pub(crate) ordinal: usize,
    pub(crate) code: String,
    pub(crate) description: String,
    pub(crate) quantity: i64,
    pub(crate) price: Money,
    /// Quantity times price.
    pub(crate) total: Money,
}

/// One line that cannot be imported.
#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) line: u64,
    /// The line's total, if it can be parsed.
    pub(crate) total: Option<Money>,
    /// A code in UPPER_SNAKE with a description.
    pub(crate) reason: String,
}

/// Reads invoices. A line that cannot be parsed becomes a fault of its invoice; reading continues.
pub(crate) struct Invoices<R> {
    lines: Lines<R>,
    /// The first line of the next invoice.
    pending: Option<Line>,
    /// The error at which reading stopped.
    failure: Option<io::Error>,
}

/// The columns, in their order.
const COLUMNS: [&str; 8] = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
];

/// The date formats of this data set and of the original one.
const DATES: [&[BorrowedFormatItem<'_>]; 2] = [
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
    format_description!("[month padding:none]/[day padding:none]/[year] [hour padding:none]:[minute]"),
];

/// The contract's limit for one order. Further items of an invoice are refused, which bounds the memory.
const MAX_ITEMS: usize = 1000;

/// The largest quantity of one item; a larger one is a fault.
const MAX_QUANTITY: u64 = 1_000_000_000_000;

/// The data set is from a British shop.
pub(crate) const CURRENCY: Currency = Currency::GBP;

impl<R: BufRead> Invoices<R> {
    /// # Errors
    /// When the heading is not that of an online-retail file.
    pub(crate) fn new(reader: R) -> Result<Invoices<R>, String> {
        let mut lines = Lines::new(reader);
        let heading = match lines.next_line() {
            Ok(heading) => heading.unwrap_or_default(),
            Err(error) => return Err(format!("the heading cannot be read: {error}")),
        };
        if let Some(fault) = heading.fault {
            return Err(format!("the heading cannot be read: {fault}"));
        }
        let heading: Vec<&str> = heading.fields.iter().map(|name| name.trim()).collect();
        if heading != COLUMNS {
            return Err(format!(
                "the heading must be {}, it is {}",
                COLUMNS.join(","),
                heading.join(",")
            ));
        }
        Ok(Invoices {
            lines,
            pending: None,
            failure: None,
        })
    }

    /// The number of bytes read.
    pub(crate) fn position(&self) -> u64 {
        self.lines.position()
    }

    /// The error at which reading stopped. The incomplete invoice at that point is not returned.
    pub(crate) fn into_failure(self) -> Option<io::Error> {
        self.failure
    }

    fn next_line(&mut self) -> Option<Line> {
        self.lines.next_line().unwrap_or_else(|error| {
            self.failure = Some(error);
            None
        })
    }
}

impl<R: BufRead> Iterator for Invoices<R> {
    type Item = Invoice;

    fn next(&mut self) -> Option<Invoice> {
        if self.failure.is_some() {
            return None;
        }
        let mut invoice: Option<Invoice> = None;
        if let Some(line) = self.pending.take() {
            invoice.insert(Invoice::new(&line)).add(&line);
        }
        while let Some(line) = self.next_line() {
            match &mut invoice {
                None => invoice.insert(Invoice::new(&line)).add(&line),
                // A line without a number counts as one of the invoice before it.
                Some(current) if current.number == number(&line) || has_no_invoice_number(&line) => {
                    current.add(&line);
                }
                Some(_) => {
                    self.pending = Some(line);
                    break;
                }
            }
        }
        // An incomplete invoice is not returned.
        invoice.filter(|_| self.failure.is_none())
    }
}

impl Invoice {
    pub(crate) fn is_cancellation(&self) -> bool {
        self.number.starts_with('C')
    }

    /// The invoice's total in the file, including the faults whose total is known.
    pub(crate) fn total(&self) -> Result<Money, money::Error> {
        let items = self.items.iter().map(|item| item.total);
        let faults = self.faults.iter().filter_map(|fault| fault.total);
        Money::sum(CURRENCY, items.chain(faults))
    }

    pub(crate) fn lines(&self) -> usize {
        self.items.len() + self.faults.len()
    }

    /// The number of lines that cannot be parsed as records.
    pub(crate) fn unreadable_lines(&self) -> usize {
        let is_unreadable = |fault: &&Fault| fault.reason.starts_with("UNREADABLE");
        self.faults.iter().filter(is_unreadable).count()
    }

    /// The number of lines whose total is unknown.
    pub(crate) fn lines_without_total(&self) -> usize {
        self.faults.iter().filter(|fault| fault.total.is_none()).count()
    }

    fn new(line: &Line) -> Invoice {
        Invoice {
            number: number(line).to_owned(),
            customer: customer(line).to_owned(),
            items: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn add(&mut self, line: &Line) {
        match self.read(line) {
            Ok(item) => self.items.push(item),
            Err(reason) => {
                // The total of a faulty line counts, unless the line has the wrong number of columns.
                let is_whole = line.is_whole && line.fields.len() == COLUMNS.len();
                let amounts = parse_amounts(line).ok().filter(|_| is_whole);
                self.faults.push(Fault {
                    line: line.number,
                    total: amounts.map(|(_, _, total)| total),
                    reason,
                });
            }
        }
    }

    fn read(&self, line: &Line) -> Result<Item, String> {
        if let Some(fault) = &line.fault {
            return Err(fault.clone());
        }
        let record = &line.fields;
        if record.len() != COLUMNS.len() {
            return Err(format!(
                "UNREADABLE: {} columns instead of {}",
                record.len(),
                COLUMNS.len()
            ));
        }
        let digits = self.number.strip_prefix('C').unwrap_or(&self.number);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!(
                "INVOICE_NUMBER: `{}` is neither a number nor a C and a number",
                self.number
            ));
        }
        if customer(line) != self.customer {
            return Err(format!("CUSTOMER: the invoice is customer `{}`'s", self.customer));
        }
        let date = record[4].trim();
        if DATES
            .iter()
            .all(|format| PrimitiveDateTime::parse(date, format).is_err())
        {
            return Err(format!("INVOICE_DATE: `{date}` is not a date and a time"));
        }
        if self.items.len() >= MAX_ITEMS {
            return Err(format!("TOO_MANY_LINES: an order has at most {MAX_ITEMS}"));
        }
        let (quantity, price, total) = parse_amounts(line)?;
        if price.is_negative() {
            return Err("NEGATIVE_PRICE: a price must not be below zero".to_owned());
        }
        Ok(Item {
            line: line.number,
            ordinal: self.lines() + 1,
            code: record[1].trim().to_owned(),
            description: record[2].trim().to_owned(),
            quantity,
            price,
            total,
        })
    }
}

fn number(line: &Line) -> &str {
    field(line, 0)
}

/// Whether a line is not a record and has no valid invoice number either.
fn has_no_invoice_number(line: &Line) -> bool {
    let digits = number(line).trim_start_matches('C');
    line.fault.is_some() && (digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The customer's number, which the data set writes as a decimal: `17850.0`.
fn customer(line: &Line) -> &str {
    let text = field(line, 6);
    text.strip_suffix(".0").unwrap_or(text)
}

fn field(line: &Line, index: usize) -> &str {
    line.fields.get(index).map_or("", |field| field.trim())
}

fn parse_amounts(line: &Line) -> Result<(i64, Money, Money), String> {
    let quantity = field(line, 3);
    let quantity: i64 = quantity
        .parse()
        .ok()
        .filter(|quantity: &i64| quantity.unsigned_abs() <= MAX_QUANTITY)
        .ok_or_else(|| format!("QUANTITY: `{quantity}` is no whole number of at most {MAX_QUANTITY}"))?;
    let price = field(line, 5);
    let price = Money::parse(price, CURRENCY).map_err(|error| format!("PRICE: {error}"))?;
    let minor = price
        .minor()
        .checked_mul(quantity)
        .ok_or("PRICE: the line's total is too large")?;
    Ok((quantity, price, Money::new(minor, CURRENCY)))
}

#[cfg(test)]
#[path = "invoice/tests.rs"]
mod tests;
