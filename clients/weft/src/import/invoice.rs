//! Online-retail CSV: invoices, one line of the file for each item. Read as a stream, one invoice at a time.

use std::io::Read;

use csv::{Reader, ReaderBuilder, StringRecord, Terminator};
use money::{Currency, Money};
use time::{PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// Consecutive lines of the file with one invoice number.
#[derive(Debug, PartialEq)]
pub(crate) struct Invoice {
    /// With its leading C, if it cancels.
    pub(crate) number: String,
    /// Empty for a walk-in.
    pub(crate) customer: String,
    pub(crate) items: Vec<Item>,
    pub(crate) faults: Vec<Fault>,
}

/// One readable line.
#[derive(Debug, PartialEq)]
pub(crate) struct Item {
    /// The line in the file, the heading being line 1.
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

/// One line that cannot be taken, whatever a service says.
#[derive(Debug, PartialEq)]
pub(crate) struct Fault {
    pub(crate) line: u64,
    /// What the line says it is worth; zero if that cannot be read.
    pub(crate) total: Money,
    /// UPPER_SNAKE, and in words.
    pub(crate) reason: String,
}

/// Reads invoices. A line that cannot be read becomes a fault of its invoice and stops nothing.
pub(crate) struct Invoices<R> {
    records: Reader<R>,
    /// The first line of the next invoice.
    pending: Option<(u64, StringRecord)>,
    /// Why the file could not be read on.
    failure: Option<csv::Error>,
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

/// As this data set writes dates, and as the original does.
const DATES: [&[BorrowedFormatItem<'_>]; 2] = [
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]"),
    format_description!("[month padding:none]/[day padding:none]/[year] [hour padding:none]:[minute]"),
];

/// The contract's limit for one order; the rest of a longer invoice is refused, so that memory stays bounded.
const MOST_ITEMS: usize = 1000;

/// More of one item than this is a mistake.
const MOST_QUANTITY: u64 = 1_000_000_000_000;

/// The data set is a British shop's.
pub(crate) const CURRENCY: Currency = Currency::GBP;

impl<R: Read> Invoices<R> {
    /// # Errors
    /// When the heading is not that of an online-retail file.
    pub(crate) fn new(reader: R) -> Result<Invoices<R>, String> {
        // With any line ending a line after `\r\n` would be counted too late; what is left of it is white space at the
        // end of the last column.
        let mut records = ReaderBuilder::new()
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .from_reader(reader);
        let heading = records
            .headers()
            .map_err(|error| format!("the heading cannot be read: {error}"))?;
        let heading: Vec<&str> = heading
            .iter()
            .map(|name| name.trim_start_matches('\u{feff}').trim())
            .collect();
        if heading != COLUMNS {
            return Err(format!(
                "the heading must be {}, it is {}",
                COLUMNS.join(","),
                heading.join(",")
            ));
        }
        Ok(Invoices {
            records,
            pending: None,
            failure: None,
        })
    }

    /// How many bytes of the file were read.
    pub(crate) fn position(&self) -> u64 {
        self.records.position().byte()
    }

    /// Why the file could not be read to its end; the invoice that was being read is not handed on then.
    pub(crate) fn into_failure(self) -> Option<csv::Error> {
        self.failure
    }

    /// The next line of the file, or what is wrong with it.
    fn next_record(&mut self) -> Option<(u64, Result<StringRecord, String>)> {
        let mut record = StringRecord::new();
        let line = self.records.position().line();
        match self.records.read_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let line = record.position().map_or(line, csv::Position::line);
                Some((line, Ok(record)))
            }
            Err(error) if error.is_io_error() => {
                self.failure = Some(error);
                None
            }
            Err(error) => Some((line, Err(format!("UNREADABLE: {error}")))),
        }
    }
}

impl<R: Read> Iterator for Invoices<R> {
    type Item = Invoice;

    fn next(&mut self) -> Option<Invoice> {
        if self.failure.is_some() {
            return None;
        }
        let mut invoice: Option<Invoice> = None;
        if let Some((line, record)) = self.pending.take() {
            invoice.insert(Invoice::begin(&record)).add(line, &record);
        }
        while let Some((line, record)) = self.next_record() {
            match (record, &mut invoice) {
                (Ok(record), None) => invoice.insert(Invoice::begin(&record)).add(line, &record),
                (Ok(record), Some(current)) if current.number == number(&record) => {
                    current.add(line, &record);
                }
                (Ok(record), Some(_)) => {
                    self.pending = Some((line, record));
                    break;
                }
                (Err(reason), current) => {
                    let invoice = current.get_or_insert_with(|| Invoice::begin(&StringRecord::new()));
                    invoice.faults.push(Fault {
                        line,
                        total: Money::zero(CURRENCY),
                        reason,
                    });
                }
            }
        }
        // A part of an invoice is none.
        invoice.filter(|_| self.failure.is_none())
    }
}

impl Invoice {
    pub(crate) fn cancels(&self) -> bool {
        self.number.starts_with('C')
    }

    /// What the file says it is worth, faults included.
    pub(crate) fn total(&self) -> Result<Money, money::Error> {
        let items = self.items.iter().map(|item| item.total);
        Money::sum(CURRENCY, items.chain(self.faults.iter().map(|fault| fault.total)))
    }

    pub(crate) fn lines(&self) -> usize {
        self.items.len() + self.faults.len()
    }

    fn begin(record: &StringRecord) -> Invoice {
        Invoice {
            number: number(record).to_owned(),
            customer: customer(record).to_owned(),
            items: Vec::new(),
            faults: Vec::new(),
        }
    }

    fn add(&mut self, line: u64, record: &StringRecord) {
        match self.read(line, record) {
            Ok(item) => self.items.push(item),
            Err(reason) => {
                // A line may be worth something even where it cannot be taken.
                let total = worth(record).map_or(Money::zero(CURRENCY), |(_, _, total)| total);
                self.faults.push(Fault { line, total, reason });
            }
        }
    }

    fn read(&self, line: u64, record: &StringRecord) -> Result<Item, String> {
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
        if customer(record) != self.customer {
            return Err(format!("CUSTOMER: the invoice is customer `{}`'s", self.customer));
        }
        let date = record[4].trim();
        if DATES
            .iter()
            .all(|format| PrimitiveDateTime::parse(date, format).is_err())
        {
            return Err(format!("INVOICE_DATE: `{date}` is not a date and a time"));
        }
        if self.items.len() >= MOST_ITEMS {
            return Err(format!("TOO_MANY_LINES: an order has at most {MOST_ITEMS}"));
        }
        let (quantity, price, total) = worth(record)?;
        if price.is_negative() {
            return Err("NEGATIVE_PRICE: a price must not be below zero".to_owned());
        }
        Ok(Item {
            line,
            ordinal: self.lines() + 1,
            code: record[1].trim().to_owned(),
            description: record[2].trim().to_owned(),
            quantity,
            price,
            total,
        })
    }
}

fn number(record: &StringRecord) -> &str {
    record.get(0).unwrap_or_default().trim()
}

/// The data set writes customers as decimals: `17850.0`.
fn customer(record: &StringRecord) -> &str {
    let text = record.get(6).unwrap_or_default().trim();
    text.strip_suffix(".0").unwrap_or(text)
}

fn worth(record: &StringRecord) -> Result<(i64, Money, Money), String> {
    let quantity = record.get(3).unwrap_or_default().trim();
    let quantity: i64 = quantity
        .parse()
        .ok()
        .filter(|quantity: &i64| quantity.unsigned_abs() <= MOST_QUANTITY)
        .ok_or_else(|| format!("QUANTITY: `{quantity}` is no whole number of at most {MOST_QUANTITY}"))?;
    let price = record.get(5).unwrap_or_default().trim();
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
