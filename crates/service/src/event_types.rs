//! Event types of an application, with their schemas and examples.

use std::collections::HashSet;

use postrider_core::filter::is_event_type;
use postrider_core::limits::{
    DESCRIPTION_BYTES_MAX, EVENT_TYPES_MAX, PAGE_BYTES_MAX, SCHEMA_BYTES_MAX, VENDOR_BYTES_MAX,
};
use postrider_core::profile::{DescribedEvent, Profile};
use postrider_core::seal::sha256;
use postrider_core::tenant::{EventType, Scope};
use postrider_core::{Id, id};
use tokio::sync::OwnedSemaphorePermit;

use crate::changes::is_overtaken;
use crate::reading::bounded;
use crate::refusal::{Refusal, Result};
use crate::{Caller, Service, schemas};

/// An event type as an application declares it.
#[derive(Debug, Default, Clone)]
pub struct NewEventType {
    pub description: Option<String>,
    /// JSON Schema, kept as it came, byte for byte.
    pub schema: Option<String>,
    /// JSON, kept as it came.
    pub example: Option<String>,
    /// What a vendor's API says of it that only that API knows: a JSON object. None keeps what is there.
    pub vendor: Option<String>,
}

/// What an event type is called.
#[derive(Debug)]
pub struct EventTypeName {
    pub name: String,
    /// By the application itself.
    pub is_declared: bool,
}

/// Who describes an event type.
#[derive(Debug)]
pub enum EventTypeListed {
    Profile(DescribedEvent),
    Application(EventType),
}

impl EventTypeListed {
    pub fn name(&self) -> &str {
        match self {
            Self::Profile(described) => &described.name,
            Self::Application(own) => &own.name,
        }
    }

    /// Bytes of what is said of it.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Profile(described) => {
                let texts = [
                    &described.description,
                    &described.schema,
                    &described.example,
                ];
                texts.into_iter().flatten().map(String::len).sum()
            }
            Self::Application(own) => own.text_bytes(),
        }
    }
}

/// What takes a turn: one event type of an application.
fn of_one(application: Id<id::Application>, name: &str) -> u128 {
    let digest = sha256(name.as_bytes());
    let (first, _) = digest.split_first_chunk().expect("it has 32 bytes");
    application.as_u128() ^ u128::from_be_bytes(*first)
}

impl Service {
    /// Declares an event type, or declares it anew, whatever was said of it.
    ///
    /// # Errors
    /// Of a name, a schema or an example that cannot be, `event_types_max`, or what the store answers.
    pub async fn put_event_type(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        name: String,
        new: NewEventType,
    ) -> Result<EventType> {
        self.put_event_type_over(who, application, name, |_| Ok(new.clone()))
            .await
    }

    /// Declares an event type by what is there of this name, which `make` is told again when another account was quicker.
    ///
    /// # Errors
    /// As [`Service::put_event_type`], and what `make` refuses.
    pub async fn put_event_type_over(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        name: String,
        mut make: impl FnMut(Option<EventType>) -> Result<NewEventType> + Send,
    ) -> Result<EventType> {
        let application = who.application(self, application).await?.id;
        // Live events are checked by it as well.
        who.must_be_live()?;
        who.must_change()?;
        if !is_event_type(&name) {
            return Err(Refusal::invalid(
                "name",
                "must have letters, digits, _ and -, with dots between parts",
            ));
        }
        let mut look = 1;
        loop {
            let turn = self.changing(who, of_one(application, &name)).await;
            let seen = self.store().event_type(application, &name).await?;
            let new = make(seen.clone())?;
            let put = self.put_event_type_once(who, application, &name, new, seen, turn);
            let put = put.await;
            if !is_overtaken(&put, look) {
                return put;
            }
            look += 1;
        }
    }

    async fn put_event_type_once(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        name: &str,
        new: NewEventType,
        seen: Option<EventType>,
        turn: OwnedSemaphorePermit,
    ) -> Result<EventType> {
        if let Some(description) = &new.description {
            bounded("description", description, DESCRIPTION_BYTES_MAX)?;
        }
        for (field, text) in [("schema", &new.schema), ("example", &new.example)] {
            if text
                .as_ref()
                .is_some_and(|text| text.len() > SCHEMA_BYTES_MAX)
            {
                let rule = format!("must have at most {SCHEMA_BYTES_MAX} bytes");
                return Err(Refusal::invalid(field, rule));
            }
        }
        let vendor = match new.vendor {
            Some(vendor) if vendor.len() > VENDOR_BYTES_MAX => {
                let rule =
                    format!("must have at most {VENDOR_BYTES_MAX} bytes, its versions together");
                return Err(Refusal::invalid("schemas", rule));
            }
            Some(vendor) => Some(vendor),
            // Who declares it by another API knows nothing of this, and must not take it away.
            None => seen.as_ref().and_then(|seen| seen.vendor.clone()),
        };
        let by = who.changes(self.now())?;
        let event_type = EventType {
            application,
            name: name.to_owned(),
            description: new.description,
            schema: new.schema,
            example: new.example,
            vendor,
            created_at: by.at,
        };
        // Before it is stored: from then on it refuses events.
        schemas::try_out(&self.0.schemas, &event_type).await?;
        let service = self.clone();
        self.to_the_end(async move {
            let store = service.store();
            let name = event_type.name.clone();
            let put = store
                .put_event_type(event_type, seen, EVENT_TYPES_MAX, by)
                .await;
            // Also where nobody knows whether it was written.
            service.0.directory.forget_event_type(application, &name);
            drop(turn);
            Ok(put?)
        })
        .await
    }

    /// The example of an event type, which may be nobody's.
    ///
    /// # Errors
    /// `not_found` of a tenant that is another's, or what the store answers.
    pub async fn event_example(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        name: &str,
    ) -> Result<Option<String>> {
        let tenant = who.tenant(self, tenant).await?;
        example(self, tenant.application, name).await
    }

    /// The profile's event types, and the application's own, which take the place of the profile's.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn event_type_names(
        &self,
        who: &Caller,
        application: Id<id::Application>,
    ) -> Result<Vec<EventTypeName>> {
        let (described, own) = self.known_event_types(who, application).await?;
        let described = described.into_iter().map(|known| EventTypeName {
            name: known.name,
            is_declared: false,
        });
        let own = own.into_iter().map(|(name, _)| EventTypeName {
            name,
            is_declared: true,
        });
        Ok(described.chain(own).collect())
    }

    /// The same, one after the other with what is said of them: all of it together may be more than anybody should hold.
    /// What `each` refuses ends it.
    ///
    /// # Errors
    /// As [`Service::event_type_names`], and what `each` says.
    pub async fn each_event_type(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        mut each: impl FnMut(EventTypeListed) -> Result<()>,
    ) -> Result<()> {
        let (described, own) = self.known_event_types(who, application).await?;
        for known in described {
            each(EventTypeListed::Profile(known))?;
        }
        let mut own = own.into_iter().peekable();
        while let Some((first, mut bytes)) = own.next() {
            let mut last = first.clone();
            while let Some((name, more)) = own.next_if(|(_, more)| bytes + more <= PAGE_BYTES_MAX) {
                (last, bytes) = (name, bytes + more);
            }
            let found = self.store().list_event_types(application, first..=last);
            for declared in found.await? {
                each(EventTypeListed::Application(declared))?;
            }
        }
        Ok(())
    }

    /// The profile's that the application does not describe anew, and the names of its own with the bytes of their texts.
    async fn known_event_types(
        &self,
        who: &Caller,
        application: Id<id::Application>,
    ) -> Result<(Vec<DescribedEvent>, Vec<(String, usize)>)> {
        // Customers subscribe to them: they may know which there are.
        let application = match who.scope() {
            Scope::Tenant(own, _) if own == application => own,
            _ => who.application(self, application).await?.id,
        };
        let profile = self.profile_of(application).await?.profile;
        let own = self.store().event_type_names(application).await?;
        let mut described = of_profile(&profile);
        described.retain(|known| own.iter().all(|(name, _)| *name != known.name));
        Ok((described, own))
    }

    /// What the application declared by this name, or none.
    ///
    /// # Errors
    /// `not_found` of the application, or what the store answers.
    pub async fn event_type(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Option<EventType>> {
        let application = match who.scope() {
            Scope::Tenant(own, _) if own == application => own,
            _ => who.application(self, application).await?.id,
        };
        Ok(self.store().event_type(application, name).await?)
    }

    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn delete_event_type(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        name: String,
    ) -> Result<()> {
        let application = who.application(self, application).await?.id;
        who.must_be_live()?;
        let (service, by) = (self.clone(), who.changes(self.now())?);
        self.to_the_end(async move {
            let deleted = service.store().delete_event_type(application, &name, by);
            let deleted = deleted.await;
            service.0.directory.forget_event_type(application, &name);
            Ok(deleted?)
        })
        .await
    }
}

/// The types that a profile describes, and those that it only names: the whole of a closed catalogue, and what can
/// trigger a distribution.
fn of_profile(profile: &Profile) -> Vec<DescribedEvent> {
    let mut types = profile.event_types.clone();
    let distribution = profile.distribution.as_ref();
    let triggers = distribution.and_then(|spec| spec.events.as_ref());
    let mut known: HashSet<String> = types.iter().map(|event| event.name.clone()).collect();
    for name in profile.events.closed.iter().chain(triggers).flatten() {
        if known.insert(name.clone()) {
            types.push(DescribedEvent {
                name: name.clone(),
                description: None,
                schema: None,
                example: None,
            });
        }
    }
    types
}

pub(crate) async fn example(
    service: &Service,
    application: Id<id::Application>,
    name: &str,
) -> Result<Option<String>> {
    // The application's own has the place of the profile's, also where it has no example.
    if let Some(known) = service.store().event_type(application, name).await? {
        return Ok(known.example);
    }
    let profile = service.0.directory.profile(application).await?.profile;
    let mut described = profile.event_types.iter();
    let known = described.find(|known| known.name == name);
    Ok(known.and_then(|known| known.example.clone()))
}
