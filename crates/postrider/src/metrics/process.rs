//! The process itself, under the names that all of Prometheus's client libraries give it.

use prometheus_client::registry::Registry;

#[cfg(target_os = "linux")]
pub(super) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(linux::Process));
}

/// Elsewhere the system's own tools tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn register(_: &mut Registry) {}

#[cfg(target_os = "linux")]
mod linux {
    use procfs::process::{LimitValue, Process as Proc};
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;

    #[derive(Debug)]
    pub(super) struct Process;

    impl Collector for Process {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
            // What cannot be read now is left out.
            let Ok(process) = Proc::myself() else {
                return Ok(());
            };
            let mut show = |name, help, metric: &dyn Shown| metric.show(&mut encoder, name, help);
            if let Ok(stat) = process.stat() {
                let ticks = procfs::ticks_per_second();
                let cpu = ConstCounter::new(in_seconds(stat.utime + stat.stime, ticks));
                show("process_cpu_seconds", "CPU time, of user and system", &cpu)?;
                let resident = ConstGauge::new(stat.rss.saturating_mul(procfs::page_size()));
                let help = "Resident memory";
                show("process_resident_memory_bytes", help, &resident)?;
                let threads = ConstGauge::new(stat.num_threads);
                show("process_threads", "Threads", &threads)?;
                // The system tells the start in ticks since it was booted.
                if let Ok(boot) = procfs::boot_time_secs() {
                    let begun = in_seconds(boot.saturating_mul(ticks) + stat.starttime, ticks);
                    let help = "When it started, since 1970";
                    show("process_start_time_seconds", help, &ConstGauge::new(begun))?;
                }
            }
            if let Ok(open) = process.fd_count() {
                let open = ConstGauge::new(u64::try_from(open).unwrap_or(u64::MAX));
                show("process_open_fds", "Open file descriptors", &open)?;
            }
            if let Ok(limits) = process.limits()
                && let LimitValue::Value(max) = limits.max_open_files.soft_limit
            {
                let help = "File descriptors that it may open";
                show("process_max_fds", help, &ConstGauge::new(max))?;
            }
            Ok(())
        }
    }

    /// A metric with its name before it.
    trait Shown {
        fn show(
            &self,
            encoder: &mut DescriptorEncoder<'_>,
            name: &str,
            help: &str,
        ) -> std::fmt::Result;
    }

    impl<M: EncodeMetric> Shown for M {
        fn show(
            &self,
            encoder: &mut DescriptorEncoder<'_>,
            name: &str,
            help: &str,
        ) -> std::fmt::Result {
            let encoder = encoder.encode_descriptor(name, help, None, self.metric_type())?;
            self.encode(encoder)
        }
    }

    /// To a hundredth of a second.
    fn in_seconds(ticks: u64, per_second: u64) -> f64 {
        let per_second = per_second.max(1);
        let hundredths = u128::from(ticks) * 100 / u128::from(per_second);
        let millis = u64::try_from(hundredths * 10).unwrap_or(u64::MAX);
        std::time::Duration::from_millis(millis).as_secs_f64()
    }
}
