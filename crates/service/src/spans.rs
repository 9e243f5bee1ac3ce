//! A publish as a span of its trace, where somebody collects them.

use postrider_core::Timestamp;
use postrider_core::filter::is_event_type;
use postrider_core::tenant::Tenant;
use postrider_core::trace::TraceParent;
use postrider_engine::PublishSpan;

use crate::Service;
use crate::events::Publication;
use crate::refusal::Result;

/// A publish that has begun.
#[derive(Debug)]
pub(crate) struct Publishing {
    parent: Option<TraceParent>,
    /// None where nobody collects spans.
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    context: TraceParent,
    began: Timestamp,
    event_type: Option<String>,
}

impl Publishing {
    pub(crate) fn begin(service: &Service, parent: Option<TraceParent>, event_type: &str) -> Self {
        let own = service.engine().tracer().map(|tracer| Own {
            context: tracer.begin(parent),
            began: service.now(),
            // What is none may be as long as a body.
            event_type: is_event_type(event_type).then(|| event_type.to_owned()),
        });
        Self { parent, own }
    }

    /// What the event keeps, so that its attempts follow from it.
    pub(crate) fn context(&self) -> Option<TraceParent> {
        let own = self.own.as_ref().map(|own| own.context);
        own.or(self.parent)
    }

    pub(crate) fn end(self, service: &Service, tenant: &Tenant, result: &Result<Publication>) {
        let sampled = self.own.filter(|own| own.context.is_sampled());
        let (Some(own), Some(tracer)) = (sampled, service.engine().tracer()) else {
            return;
        };
        tracer.published(&PublishSpan {
            context: own.context,
            parent: self.parent,
            began: own.began,
            ended: service.now(),
            application: tenant.application,
            tenant: tenant.id,
            event_type: own.event_type.as_deref(),
            result: match result {
                Ok(publication) => Ok((publication.event, publication.deliveries)),
                Err(refusal) => Err(refusal.code.as_str()),
            },
        });
    }
}
