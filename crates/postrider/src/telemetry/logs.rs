//! The log to a collector, beside stderr: each line with its fields, as it is written.

use anyhow::Context as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{LogExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::logs::{
    BatchConfigBuilder, BatchLogProcessor, SdkLogger, SdkLoggerProvider,
};

use super::sender::{
    DELAY, EXPORT_TIME_MAX, GROUP_MAX, LAST_TIME_MAX, QUEUE_MAX, Sender, resource,
};
use crate::config::{TelemetryConfig, TelemetrySignal};

/// What makes records of lines.
pub(crate) type Bridge = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// Sends what the log tells, as long as it is there.
#[derive(Debug)]
pub(crate) struct Logs(SdkLoggerProvider);

impl Logs {
    /// None where the log is not to be sent. The log has it from now on.
    ///
    /// # Errors
    /// As [`Sender::new`].
    pub(crate) fn new(config: &TelemetryConfig) -> anyhow::Result<Option<Self>> {
        let Some(sender) = Sender::new(config, TelemetrySignal::Logs)? else {
            return Ok(None);
        };
        let exporter = LogExporter::builder()
            .with_http()
            .with_endpoint(sender.url.clone())
            .with_timeout(EXPORT_TIME_MAX)
            .with_http_client(sender)
            .build()
            .context("telemetry.endpoint")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(GROUP_MAX)
            .with_scheduled_delay(DELAY)
            .build();
        let processor = BatchLogProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        let provider = SdkLoggerProvider::builder()
            .with_log_processor(processor)
            .with_resource(resource(config))
            .build();
        crate::log::also_to(Some(Bridge::new(&provider)));
        Ok(Some(Self(provider)))
    }

    /// Sends what waits. Waits itself: not to be called where others wait for it.
    pub(crate) fn end(&self) {
        // Before: what is told of the last ones has nobody to be sent by.
        crate::log::also_to(None);
        if let Err(error) = self.0.shutdown_with_timeout(LAST_TIME_MAX) {
            tracing::warn!("the last lines of the log were not sent: {error}");
        }
    }
}
