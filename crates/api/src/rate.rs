//! Requests of each key in a minute, and what its answers say of them (draft-ietf-httpapi-ratelimit-headers-10).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use postrider_core::tenant::Scope;
use postrider_core::{Id, Timestamp};
use postrider_service::{Caller, ErrorCode, Refusal, Result, Standing, Windows};
use tokio::time::Instant;

/// In which requests are counted; it begins with a key's first.
const WINDOW: Duration = Duration::from_secs(60);

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Requests a minute that keys may make; none is any number. Root keys have no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestLimits {
    /// Of each key of an application.
    pub application: Option<u32>,
    /// Of each key of a tenant.
    pub tenant: Option<u32>,
}

/// What each key has used of its minute, by a clock that nobody sets.
#[derive(Debug)]
pub(crate) struct Rates {
    limits: RequestLimits,
    windows: Windows,
    begun: Instant,
}

/// Where a key stands after a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    limit: u32,
    remaining: u32,
    /// Seconds until its window is over.
    resets_in: u64,
    is_over: bool,
}

impl Rates {
    pub(crate) fn new(limits: RequestLimits) -> Self {
        Self {
            limits,
            windows: Windows::default(),
            begun: Instant::now(),
        }
    }

    /// Counts a request of a key or a token; none where it has no limit.
    pub(crate) fn count(&self, caller: &Caller, holder: u128) -> Option<Used> {
        let limit = match caller.scope() {
            Scope::Root => None,
            Scope::Application(_) => self.limits.application,
            Scope::Tenant(..) => self.limits.tenant,
        }?;
        let now = Timestamp::from_secs(0).plus(self.begun.elapsed());
        // A token counts by its session's id, which no key has: ids are unique within an installation.
        let standing: Standing = self
            .windows
            .count(Id::from_u128(holder), limit, WINDOW, now);
        let left = standing.resets_at.since(now);
        Some(Used {
            limit,
            remaining: standing.remaining,
            // Rounded up, so that whoever waits that long is in the next window.
            resets_in: left.as_secs() + u64::from(left.subsec_nanos() > 0),
            is_over: standing.exceeded,
        })
    }
}

impl Used {
    /// # Errors
    /// `rate_limited` when it was one too many.
    pub(crate) fn must_be_within(self) -> Result<()> {
        if !self.is_over {
            return Ok(());
        }
        let detail = format!(
            "this key may make {} requests a minute; wait {} s",
            self.limit, self.resets_in
        );
        Err(Refusal::new(ErrorCode::RateLimited, detail))
    }

    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        let mut put = |name, value: String| {
            let value = HeaderValue::from_str(&value).expect("numbers are a header value");
            headers.insert(name, value);
        };
        let window = WINDOW.as_secs();
        put(POLICY, format!("\"key\";q={};w={window}", self.limit));
        put(
            LIMIT,
            format!("\"key\";r={};t={}", self.remaining, self.resets_in),
        );
        // Over the one second that every 429 says by itself.
        if self.is_over {
            put(header::RETRY_AFTER, self.resets_in.to_string());
        }
    }
}
