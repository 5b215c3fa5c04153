use super::*;

const HEADING: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

fn read(lines: &str) -> Vec<Invoice> {
    let text = format!("{HEADING}{lines}");
    Invoices::new(text.as_bytes()).unwrap().collect()
}

#[test]
fn consecutive_lines_with_one_number_are_one_invoice() {
    let invoices = read(
        "536365,85123A,WHITE HEART,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n\
         536365,71053,\"LANTERN, METAL\",6,2010-12-01 08:26:00,3.39,17850.0,United Kingdom\n\
         C536379,D,Discount,-1,2010-12-01 09:41:00,27.5,14527.0,United Kingdom\n\
         536366,22633,WARMER,6,2010-12-01 08:28:00,1.85,,United Kingdom\n",
    );
    let numbers: Vec<&str> = invoices.iter().map(|invoice| invoice.number.as_str()).collect();
    assert_eq!(numbers, ["536365", "C536379", "536366"]);
    assert_eq!(invoices[0].customer, "17850");
    assert_eq!(invoices[2].customer, "");
    let lantern = &invoices[0].items[1];
    assert_eq!(
        (lantern.line, lantern.ordinal, lantern.description.as_str()),
        (3, 2, "LANTERN, METAL")
    );
    assert_eq!(lantern.total.to_string(), "20.34");
    assert!(invoices[1].is_cancellation() && !invoices[0].is_cancellation());
    assert_eq!(invoices[1].total().unwrap().to_string(), "-27.50");
}

#[test]
fn a_line_that_cannot_be_parsed_is_a_fault_with_its_total_and_reading_continues() {
    let invoices = read(
        "536365,85123A,HEART,six,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n\
         536365,71053,LANTERN,6,2010-12-01 08:26:00,3.395,17850.0,United Kingdom\n\
         536365,71053,LANTERN,6\n\
         536365,71053,LANTERN,2,2010-12-01 08:26:00,-1.50,17850.0,United Kingdom\n\
         536365,71053,LANTERN,2,2010-12-01 08:26:00,1.50,99999.0,United Kingdom\n\
         A1,71053,LANTERN,2,2010-12-01 08:26:00,1.50,17850.0,United Kingdom\n",
    );
    let reasons: Vec<&str> = invoices
        .iter()
        .flat_map(|invoice| &invoice.faults)
        .map(first_word)
        .collect();
    assert_eq!(
        reasons,
        [
            "QUANTITY",
            "PRICE",
            "UNREADABLE",
            "NEGATIVE_PRICE",
            "CUSTOMER",
            "INVOICE_NUMBER"
        ]
    );
    assert_eq!(invoices[0].faults[3].total.unwrap().to_string(), "-3.00");
    assert_eq!(
        (invoices[0].lines_without_total(), invoices[0].unreadable_lines()),
        (3, 1)
    );
    assert_eq!(invoices.iter().map(Invoice::lines).sum::<usize>(), 6);
    assert_eq!(invoices[0].total().unwrap().to_string(), "0.00");
}

#[test]
fn an_invoice_longer_than_an_order_may_be_is_bounded() {
    let line = "1,A,B,1,2010-12-01 08:26:00,0.01,,United Kingdom\n";
    let invoices = read(&line.repeat(1001));
    assert_eq!((invoices[0].items.len(), invoices[0].faults.len()), (1000, 1));
}

#[test]
fn another_heading_is_refused() {
    assert!(Invoices::new("a,b\n1,2\n".as_bytes()).is_err());
}

fn first_word(fault: &Fault) -> &str {
    fault.reason.split(':').next().unwrap_or_default()
}

#[test]
fn lines_are_counted_alike_with_either_line_ending() {
    let unix = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n\
                1,A,a,1,2011-01-04 10:00:00,1.00,7.0,UK\n\
                2,B,b,1,1/4/2011 9:05,1.00,7.0,UK\n";
    let lines = |text: &str| -> Vec<u64> {
        let invoices: Vec<_> = Invoices::new(text.as_bytes()).unwrap().collect();
        invoices
            .iter()
            .flat_map(|invoice| invoice.items.iter().map(|item| item.line))
            .collect()
    };
    assert_eq!(lines(unix), [2, 3]);
    assert_eq!(lines(&unix.replace('\n', "\r\n")), [2, 3]);
}

#[test]
fn an_invalid_date_is_reported() {
    let text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n\
                1,A,a,1,99/99/2010 08:26,1.00,7.0,UK\n";
    let invoice = Invoices::new(text.as_bytes()).unwrap().next().unwrap();
    assert!(
        invoice.faults[0].reason.starts_with("INVOICE_DATE"),
        "{invoice:?}"
    );
}

/// A reader that fails after this text.
struct Failing<'a>(&'a [u8]);

impl std::io::Read for Failing<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(std::io::Error::other("the disk is gone")),
            read => Ok(read),
        }
    }
}

#[test]
fn a_read_error_ends_the_reading_and_no_incomplete_invoice_is_returned() {
    let line =
        |number: &str| format!("{number},71053,LANTERN,2,2010-12-01 08:26:00,1.50,17850.0,United Kingdom\n");
    let text = format!("{HEADING}{}{}{}", line("536365"), line("536366"), line("536366"));
    let mut invoices = Invoices::new(std::io::BufReader::new(Failing(text.as_bytes()))).unwrap();
    let read: Vec<_> = invoices.by_ref().take(10).map(|invoice| invoice.number).collect();
    assert_eq!(read, ["536365"]);
    assert!(
        invoices
            .into_failure()
            .unwrap()
            .to_string()
            .contains("the disk is gone")
    );
}

#[test]
fn a_quantity_above_the_limit_is_a_fault() {
    for quantity in ["-9223372036854775808", "9223372036854775807"] {
        let line =
            format!("C536365,71053,LANTERN,{quantity},2010-12-01 08:26:00,0.01,17850.0,United Kingdom\n");
        let invoices = read(&line);
        assert!(invoices[0].items.is_empty() && invoices[0].faults[0].reason.starts_with("QUANTITY"));
    }
}

#[test]
fn an_unclosed_quotation_mark_affects_only_its_own_line() {
    let invoices = read(
        "920011,A,\"x,1,12/1/2010 8:26,1.00,1,UK\n\
         920012,A,x,1,12/1/2010 8:26,7.00,1,UK\n\
         920013,A,\"y,1,12/1/2010 8:26,9.00,1,UK\n\
         920014,A,\"y\" z,1,12/1/2010 8:26,9.00,1,UK\n\
         920015,A,12\" RULER,1,12/1/2010 8:26,2.00,1,UK\n\
         \"920016,A,y,1,12/1/2010 8:26,9.00,1,UK\n",
    );
    let seen: Vec<(&str, usize, u64)> = invoices
        .iter()
        .map(|invoice| {
            let line = invoice.faults.first().map_or(0, |fault| fault.line);
            (invoice.number.as_str(), invoice.items.len(), line)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("920011", 0, 2),
            ("920012", 1, 0),
            ("920013", 0, 4),
            ("920014", 0, 5),
            ("920015", 1, 0),
            ("920016", 0, 7)
        ]
    );
    assert_eq!(invoices[1].total().unwrap().to_string(), "7.00");
    assert!(invoices[0].faults[0].reason.starts_with("UNREADABLE: column 3"));
    assert_eq!(
        invoices.iter().map(Invoice::lines_without_total).sum::<usize>(),
        4
    );
}

#[test]
fn a_line_with_a_column_too_many_has_no_total() {
    let invoices = read("1,A,METAL,5,1,2010-12-01 08:26:00,1.50,7.0,UK\n");
    assert_eq!((invoices[0].lines(), invoices[0].lines_without_total()), (1, 1));
}
