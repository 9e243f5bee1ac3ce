//! Whether and where traces, metrics and the log are sent, whatever this build can send.

use std::sync::Arc;

use postrider_api::Exposition;
use postrider_engine::Clock;
use postrider_engine::Tracer;

use super::Running;
use crate::config::Config;
#[cfg(feature = "otel")]
use crate::telemetry::{Telemetry, logs::Logs, metrics::Metrics};

/// Where traces and the log go, if they go anywhere.
#[derive(Clone, Default)]
pub(super) struct Traces {
    #[cfg(feature = "otel")]
    telemetry: Option<Arc<Telemetry>>,
}

/// Where the log of this process goes beside stderr, if it goes anywhere: from its start, whether it leads or follows.
#[derive(Default)]
pub(super) struct Collected {
    #[cfg(feature = "otel")]
    logs: Option<Logs>,
}

#[cfg(feature = "otel")]
impl Collected {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            logs: Logs::new(&config.telemetry)?,
        })
    }

    /// Sends what waits.
    pub(super) async fn end(self) {
        if let Some(logs) = self.logs {
            at_last(move || logs.end()).await;
        }
    }
}

#[cfg(not(feature = "otel"))]
impl Collected {
    #[expect(
        clippy::unnecessary_wraps,
        reason = "as where there is something to fail"
    )]
    pub(super) fn new(_: &Config) -> anyhow::Result<Self> {
        Ok(Self::default())
    }

    pub(super) async fn end(self) {}
}

/// What is measured goes to a collector as long as the server runs, if it goes anywhere.
#[derive(Default)]
pub(super) struct Measured {
    #[cfg(feature = "otel")]
    metrics: Option<(Arc<Metrics>, Arc<dyn Exposition>)>,
}

#[cfg(feature = "otel")]
impl Measured {
    pub(super) fn new(
        config: &Config,
        exposition: Arc<dyn Exposition>,
        clock: Arc<dyn Clock>,
        running: &Running,
    ) -> anyhow::Result<Self> {
        let Some(metrics) = Metrics::new(&config.telemetry, clock)? else {
            return Ok(Self::default());
        };
        let metrics = Arc::new(metrics);
        let (sending, of, stop) = (metrics.clone(), exposition.clone(), running.stop.clone());
        // Nothing that the server needs: were it to end, only the collector would miss it.
        running.tasks.spawn(async move {
            stop.run_until_cancelled(sending.run(&*of)).await;
        });
        Ok(Self {
            metrics: Some((metrics, exposition)),
        })
    }

    /// After all that is to be counted.
    pub(super) async fn end(&self) {
        if let Some((metrics, exposition)) = &self.metrics {
            metrics.end(&**exposition).await;
        }
    }
}

#[cfg(not(feature = "otel"))]
impl Measured {
    #[expect(
        clippy::unnecessary_wraps,
        reason = "as where there is something to fail"
    )]
    pub(super) fn new(
        _: &Config,
        _: Arc<dyn Exposition>,
        _: Arc<dyn Clock>,
        _: &Running,
    ) -> anyhow::Result<Self> {
        Ok(Self::default())
    }

    pub(super) async fn end(&self) {}
}

/// Waits for something that waits itself, on a thread of its own: a second signal does not wait for it.
#[cfg(feature = "otel")]
async fn at_last(work: impl FnOnce() + Send + 'static) {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        work();
        ended.send(()).unwrap_or_default();
    });
    drop(end.await);
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
        if let Some(telemetry) = self.telemetry.clone() {
            at_last(move || telemetry.end()).await;
        }
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
