//! Mail addresses that a tenant names get nothing until somebody who reads them agrees: a mail brings a code,
//! and the code comes back here. Whom the product itself names it vouches for.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postrider_core::audit::Actor;
use postrider_core::notice::{Confirmation, NotificationSettings};
use postrider_core::tenant::Tenant;
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_store::unconditionally;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::random::seal_nonce;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

impl Service {
    /// Sends the question to an address again.
    ///
    /// # Errors
    /// Of an address that is not waiting for it, and `overloaded` when no mail can be sent now.
    pub async fn ask_again(&self, who: &Caller, tenant: Id<id::Tenant>, email: &str) -> Result<()> {
        who.must_change()?;
        let tenant = who.tenant(self, tenant).await?;
        who.must_be_live()?;
        let unconfirmed = &tenant.settings.notifications.unconfirmed;
        if !unconfirmed.iter().any(|waits| waits == email) {
            let rule = "is not among settings.notifications.unconfirmed of the tenant";
            return Err(Refusal::invalid("email", rule));
        }
        if !ask(self, &tenant, email).await? {
            let detail = "no mail can be sent now; try again later";
            return Err(Refusal::new(ErrorCode::Overloaded, detail));
        }
        Ok(())
    }

    /// Takes a code back; the tenant and the address that it is of. It needs no key: who has the code reads the
    /// address.
    ///
    /// # Errors
    /// Of a code that is none, or has ended.
    pub async fn confirm(&self, code: &str) -> Result<(Id<id::Tenant>, String)> {
        let invalid = || {
            Refusal::invalid(
                "code",
                "is not one of this server's, or has ended; ask for a new one",
            )
        };
        let sealed = URL_SAFE_NO_PAD.decode(code).map_err(|_| invalid())?;
        let text = self.0.sealer.open(&sealed, CONTEXT, NO_ROW);
        // Why it does not open is not told: who tries codes learns nothing of the seal.
        let text = text.map_err(|_| invalid())?;
        let code: Code = serde_json::from_str(text.expose()).map_err(|_| invalid())?;
        let now = self.now();
        if Timestamp::from_micros(code.expires_at) <= now {
            return Err(invalid());
        }
        let tenant = match self.0.directory.tenant(code.tenant).await {
            Err(error) if error.code == ErrorCode::NotFound => return Err(invalid()),
            found => found?,
        };
        let notifications = &tenant.settings.notifications;
        // A code that is used again has done its work, and says so as at first.
        if notifications.unconfirmed.contains(&code.email) {
            let email = code.email.clone();
            let change = move |tenant: &mut Tenant| {
                let unconfirmed = &mut tenant.settings.notifications.unconfirmed;
                unconfirmed.retain(|waits| *waits != email);
                tenant.updated_at = now;
            };
            self.write_tenant(
                code.tenant,
                unconditionally(change),
                Actor::system(now),
                None,
            )
            .await?;
        }
        Ok((code.tenant, code.email))
    }
}

/// What codes are sealed for; they are no row's.
const CONTEXT: &str = "mail confirmation";
const NO_ROW: u128 = 0;
/// How long a code is good.
const CODE_DAYS: u64 = 7;

/// Questions that wait for the mailer, shared by tenant.
pub(crate) const QUESTIONS_MAX: usize = 256;

/// What a code says.
#[derive(Serialize, Deserialize)]
struct Code {
    tenant: Id<id::Tenant>,
    email: String,
    expires_at: i64,
}

/// The addresses in a change of settings, whatever else is in it.
fn named(patch: &Map<String, Value>) -> BTreeSet<String> {
    let classes = patch.get("notifications").and_then(Value::as_object);
    let classes = classes.into_iter().flat_map(Map::values);
    let lists = classes.filter_map(|class| class.get("emails")?.as_array());
    let emails = lists.flatten().filter_map(Value::as_str);
    emails.map(str::to_owned).collect()
}

fn unconfirmed(patch: &Map<String, Value>) -> BTreeSet<String> {
    let list = patch
        .get("notifications")
        .and_then(|n| n.get("unconfirmed"));
    let emails = list.and_then(Value::as_array).into_iter().flatten();
    emails
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Takes out of a change what only the server writes; whoever sends back what was read changes nothing.
pub(crate) fn without_read_only(patch: &mut Map<String, Value>) {
    let notifications = patch.get_mut("notifications");
    if let Some(notifications) = notifications.and_then(Value::as_object_mut) {
        notifications.remove("unconfirmed");
    }
}

/// How a change of settings leaves the addresses.
pub(crate) struct Consent {
    /// Whom whoever changed them vouches for; none of a tenant's key.
    vouched: BTreeSet<String>,
    is_tenant: bool,
}

impl Consent {
    /// Of a change as it came, so that an address in `unconfirmed`, which whoever changes something else sends
    /// back, is not vouched for.
    pub(crate) fn new(is_tenant: bool, patch: &Map<String, Value>) -> Self {
        let vouched = if is_tenant {
            BTreeSet::new()
        } else {
            let waiting = unconfirmed(patch);
            let named = named(patch).into_iter();
            named.filter(|email| !waiting.contains(email)).collect()
        };
        Self { vouched, is_tenant }
    }

    /// To be called with the settings before and after, in the transaction that changes them.
    pub(crate) fn apply(&self, before: &NotificationSettings, after: &mut NotificationSettings) {
        let known: BTreeSet<String> = before.emails().cloned().collect();
        let mut unconfirmed = Vec::new();
        for email in after.emails().collect::<BTreeSet<_>>() {
            let waits = before.unconfirmed.contains(email);
            let is_new = self.is_tenant && !known.contains(email);
            if (waits && !self.vouched.contains(email)) || is_new {
                unconfirmed.push(email.clone());
            }
        }
        // Whoever is named no more is not waited for, and is asked anew when named again.
        after.unconfirmed = unconfirmed;
    }
}

/// Asks those who are not confirmed now and were not before. What the mailer has no room for can be asked again.
pub(crate) async fn ask_new(service: &Service, before: &Tenant, after: &Tenant) -> Result<()> {
    let waited = &before.settings.notifications.unconfirmed;
    for email in &after.settings.notifications.unconfirmed {
        if !waited.contains(email) {
            ask(service, after, email).await?;
        }
    }
    Ok(())
}

/// False when the mailer has no room.
async fn ask(service: &Service, tenant: &Tenant, email: &str) -> Result<bool> {
    let Some(mailer) = &service.0.options.confirmations else {
        return Ok(false);
    };
    let code = Code {
        tenant: tenant.id,
        email: email.to_owned(),
        expires_at: service
            .now()
            .plus(Duration::from_secs(CODE_DAYS * 86_400))
            .as_micros(),
    };
    let text = Secret::new(serde_json::to_string(&code).map_err(Refusal::internal)?);
    let sealed = service.0.sealer.seal(&text, seal_nonce(), CONTEXT, NO_ROW);
    let application = service.0.directory.application(tenant.application).await?;
    let confirmation = Confirmation {
        tenant: tenant.id,
        to: email.to_owned(),
        code: Secret::new(URL_SAFE_NO_PAD.encode(sealed)),
        tenant_name: tenant.name.clone(),
        application_name: application.name.clone(),
    };
    // By share: one tenant's questions leave room in the channel for those of others.
    let place = service.0.questions.take(tenant.id.as_u128(), 1);
    Ok(place.is_some_and(|place| mailer.try_send((confirmation, place)).is_ok()))
}
