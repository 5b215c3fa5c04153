//! One step of the demonstration: a file, the state expected after it, and waiting until all services have reached
//! it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use proto::{
    claims::v1::{ClaimState, GetClaimRequest},
    order::v1::{GetOrderRequest, Order, OrderState, SettlementHold},
    payment::v1::{GetPaymentRequest, GetTrialBalanceRequest, LedgerAccount, PaymentPurpose, PaymentState},
};

use super::{
    show,
    snapshot::{Snapshot, amount, balance, fils, minor},
};
use crate::{
    clients::Clients,
    failure::{During as _, Failure},
    import, ledger, remittance,
};

/// A file to import, and the expected state after it. Amounts are in fils.
pub(super) struct Step {
    file: &'static str,
    kind: Kind,
    /// What the file does, for people.
    text: &'static str,
    /// The payer's total payment, less takebacks.
    pub(super) paid: i64,
    order: OrderState,
    hold: SettlementHold,
    cycle: i32,
}

enum Kind {
    Submission,
    Remittance,
}

pub(super) const STEPS: [Step; 5] = [
    Step {
        file: "01_submission.xml",
        kind: Kind::Submission,
        text: "A patient is treated for 500.00: the card pays the share of 100.00, the claim asks the payer for 400.00.",
        paid: 0,
        order: OrderState::Fulfilled,
        hold: SettlementHold::Unspecified,
        cycle: 1,
    },
    Step {
        file: "02_remittance_partial.xml",
        kind: Kind::Remittance,
        text: "The payer pays 240.00; A2 lacks an approval (AUTH-001), A3 is cut (PRCE-001). The order waits for a resubmission.",
        paid: 24_000,
        order: OrderState::Fulfilled,
        hold: SettlementHold::Resubmission,
        cycle: 1,
    },
    Step {
        file: "03_resubmission.xml",
        kind: Kind::Submission,
        text: "The claim is filed again with the approval attached: its second cycle.",
        paid: 24_000,
        order: OrderState::Fulfilled,
        hold: SettlementHold::Unspecified,
        cycle: 2,
    },
    Step {
        file: "04_remittance_after_resub.xml",
        kind: Kind::Remittance,
        text: "The payer pays A2, another 100.00, and stays by its price for A3: those 60.00 are written off, all is settled.",
        paid: 34_000,
        order: OrderState::Settled,
        hold: SettlementHold::Unspecified,
        cycle: 2,
    },
    Step {
        file: "05_remittance_takeback.xml",
        kind: Kind::Remittance,
        text: "The payer takes the 150.00 for A1 back (PRCE-003): they are written off too.",
        paid: 19_000,
        order: OrderState::Settled,
        hold: SettlementHold::Unspecified,
        cycle: 2,
    },
];

/// How long the services may take to reach the expected state: usually milliseconds, longer on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

impl Step {
    /// Imports the file and waits until order, payment, claim and ledger are as expected.
    pub(super) async fn run(&self, clients: &Clients, files: &Path) -> Result<(), Failure> {
        println!("\n{}\n  {}", self.file, self.text);
        let path = files.join(self.file);
        match self.kind {
            Kind::Submission => {
                let arguments = import::Arguments::new(path);
                let report = import::import(clients, &arguments).await?;
                if !report.is_clean() || report.new_entries() != 1 {
                    return Err(Failure::Other(anyhow!("the claim was not taken:\n{report}")));
                }
            }
            Kind::Remittance => {
                let report = remittance::import(clients, &path, import::RETRY_FOR).await?;
                if let Some(violation) = report.violations.first() {
                    return Err(Failure::Other(anyhow!(
                        "{}: {}",
                        violation.rule,
                        violation.message
                    )));
                }
            }
        }
        let began = Instant::now();
        let (snapshot, mismatches) = loop {
            let snapshot = Snapshot::fetch(clients).await?;
            let mismatches = self.mismatches(&snapshot);
            if mismatches.is_empty() || began.elapsed() > TIMEOUT {
                break (snapshot, mismatches);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        print!("{}", show::snapshot(&snapshot));
        if mismatches.is_empty() {
            return Ok(());
        }
        Err(Failure::Other(anyhow!(
            "after {} it is not as expected:\n  {}",
            self.file,
            mismatches.join("\n  ")
        )))
    }

    /// The differences from the expected state.
    fn mismatches(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut mismatches = Vec::new();
        let mut expect = |what: &str, is: String, expected: String| {
            if is != expected {
                mismatches.push(format!("{what} is {is}, expected {expected}"));
            }
        };
        let Snapshot {
            order,
            payment,
            claim,
            ledger,
        } = snapshot;
        let paid = fils(self.paid);
        expect(
            "the claim's net paid",
            amount(claim.net_paid.as_ref()),
            paid.clone(),
        );
        expect(
            "the order's payer paid",
            amount(order.payer_paid.as_ref()),
            paid.clone(),
        );
        expect(
            "the ledger's payer cash",
            balance(ledger, LedgerAccount::PayerCash),
            paid,
        );
        expect(
            "the payment captured",
            amount(payment.captured.as_ref()),
            fils(10_000),
        );
        expect(
            "the ledger's cash",
            balance(ledger, LedgerAccount::Cash),
            fils(10_000),
        );
        expect(
            "the ledger's revenue",
            balance(ledger, LedgerAccount::Revenue),
            fils(-50_000),
        );
        expect(
            "the ledger's payer receivable",
            balance(ledger, LedgerAccount::PayerReceivable),
            fils(owed(order)),
        );
        expect(
            "the order",
            order.state().as_str_name().into(),
            self.order.as_str_name().into(),
        );
        expect(
            "the hold",
            order.settlement_hold().as_str_name().into(),
            self.hold.as_str_name().into(),
        );
        expect(
            "the payment",
            payment.state().as_str_name().into(),
            PaymentState::Captured.as_str_name().into(),
        );
        expect(
            "the claim",
            claim.state().as_str_name().into(),
            ClaimState::Accepted.as_str_name().into(),
        );
        expect(
            "the claim's cycle",
            claim.cycle.to_string(),
            self.cycle.to_string(),
        );
        expect("balanced", ledger.balanced.to_string(), true.to_string());
        mismatches
    }
}

impl Snapshot {
    async fn fetch(clients: &Clients) -> Result<Snapshot, Failure> {
        let request = GetClaimRequest {
            id: String::new(),
            provider_id: "TEST-FAC-1".to_owned(),
            claim_id: "CLM-0001".to_owned(),
        };
        let claim = clients.claims().get_claim(clients.request(request)?).await;
        let claim = claim
            .during("claims.v1.ClaimService/GetClaim")?
            .into_inner()
            .claim
            .unwrap_or_default();
        let request = GetOrderRequest {
            id: claim.order_id.clone(),
            reference: String::new(),
        };
        let order = clients.order().get_order(clients.request(request)?).await;
        let order = order
            .during("order.v1.OrderService/GetOrder")?
            .into_inner()
            .order
            .unwrap_or_default();
        let request = GetPaymentRequest {
            id: String::new(),
            order_id: order.id.clone(),
            purpose: PaymentPurpose::Share.into(),
        };
        let payment = clients.payment().get_payment(clients.request(request)?).await;
        let payment = payment
            .during("payment.v1.PaymentService/GetPayment")?
            .into_inner()
            .payment
            .unwrap_or_default();
        let request = GetTrialBalanceRequest {
            order_id: order.id.clone(),
            currency_code: String::new(),
        };
        let ledger = ledger::trial_balance(clients, request).await?;
        Ok(Snapshot {
            order,
            payment,
            claim,
            ledger,
        })
    }
}

/// What the payer still owes according to the order: net less paid, transferred and written off.
fn owed(order: &Order) -> i64 {
    minor(order.payer_net.as_ref())
        - minor(order.payer_paid.as_ref())
        - minor(order.transferred.as_ref())
        - minor(order.written_off.as_ref())
}
