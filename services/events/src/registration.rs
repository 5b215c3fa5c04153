use std::sync::Arc;

use crate::handler::DynHandler;

/// A consumer that this process runs or stands by for.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) subjects: Vec<String>,
    pub(crate) handler: Arc<dyn DynHandler>,
}
