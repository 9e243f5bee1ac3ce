//! Whether and where traces are sent, whatever this build can send.

use std::sync::Arc;

use postrider_engine::Tracer;

use crate::config::Config;
#[cfg(feature = "otel")]
use crate::telemetry::Telemetry;

/// Where traces go, if they go anywhere.
#[derive(Clone, Default)]
pub(super) struct Traces {
    #[cfg(feature = "otel")]
    telemetry: Option<Arc<Telemetry>>,
}

#[cfg(feature = "otel")]
impl Traces {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let telemetry = Telemetry::new(&config.telemetry)?;
        Ok(Self {
            telemetry: telemetry.map(Arc::new),
        })
    }

    pub(super) fn tracer(&self) -> Option<Arc<dyn Tracer>> {
        let telemetry = self.telemetry.clone()?;
        Some(telemetry)
    }

    /// Sends what waits.
    pub(super) async fn end(&self) {
        let Some(telemetry) = self.telemetry.clone() else {
            return;
        };
        // On a thread of its own: a second signal does not wait for it.
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            telemetry.end();
            ended.send(()).unwrap_or_default();
        });
        drop(end.await);
    }
}

#[cfg(not(feature = "otel"))]
impl Traces {
    #[expect(
        clippy::unnecessary_wraps,
        reason = "as where there is something to fail"
    )]
    pub(super) fn new(_: &Config) -> anyhow::Result<Self> {
        Ok(Self::default())
    }

    #[expect(clippy::unused_self, reason = "as where there is something")]
    pub(super) fn tracer(&self) -> Option<Arc<dyn Tracer>> {
        None
    }

    pub(super) async fn end(&self) {}
}
