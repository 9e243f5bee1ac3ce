//! Every bound that is not a profile's or the operator's: its name, unit, and what happens there.

/// Bytes in an endpoint's URL; a longer one is refused.
pub const URL_BYTES_MAX: usize = 2_048;
/// Patterns in one subscription; more are refused.
pub const SUBSCRIPTION_PATTERNS_MAX: usize = 100;
/// Entries of a tenant's or an endpoint's metadata; more are refused.
pub const METADATA_ENTRIES_MAX: usize = 50;
/// Bytes of all keys and values of metadata together; more are refused.
pub const METADATA_BYTES_MAX: usize = 8_192;
/// Bytes of what a vendor's API keeps of an event type beside what this server knows of it; more are refused.
pub const VENDOR_BYTES_MAX: usize = 65_536;
/// Bytes of a content filter as JSON; a longer one is refused.
pub const FILTER_BYTES_MAX: usize = 4_096;
/// Bytes of a content filter as a person types it, with lines and blanks; a longer one is refused.
pub const FILTER_TYPED_BYTES_MAX: usize = 16_384;
/// Conditions of one content filter; more are refused.
pub const FILTER_CONDITIONS_MAX: usize = 50;
/// Levels of a content filter; a deeper one is refused.
pub const FILTER_DEPTH_MAX: usize = 10;
/// Values of a list that a content filter compares with; more are refused.
pub const FILTER_VALUES_MAX: usize = 100;
/// Values that all content filters together look at in one event, some ten nanoseconds each; when they are used up, the
/// filters that are left let it through.
pub const FILTER_STEPS_MAX: u32 = 200_000;
/// Bytes in an event type; a longer one is refused.
pub const EVENT_TYPE_BYTES_MAX: usize = 128;
/// Levels of arrays and objects in a JSON body; a deeper one is refused.
// Half of what serde_json gives up at, so that what was accepted can be read everywhere.
pub const JSON_DEPTH_MAX: usize = 64;
/// Bytes of a request body by default; a longer one is refused with 413. Configurable.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of an event's `meta`; a longer one is refused. It is shown in lists.
pub const META_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a batch's request body by default; a longer one is refused with 413.
pub const BATCH_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Events in one batch; more are refused.
pub const BATCH_EVENTS_MAX: usize = 1_000;
/// Attempts of one delivery, by schedule and by hand; a further resend is refused.
pub const ATTEMPTS_MAX: u32 = 1_000;
/// Attempts shown with a delivery, the newest; the others are in pages.
pub const ATTEMPTS_SHOWN: u32 = 25;
/// Rows in one page of a list; a greater `limit` is refused.
pub const PAGE_ROWS_MAX: usize = 250;
/// Rows in one page of a list when `limit` is not given.
pub const PAGE_ROWS_DEFAULT: usize = 50;
/// Bytes of an idempotency key, an ordering key or a name; longer ones are refused.
pub const KEY_BYTES_MAX: usize = 255;
/// Bytes of a description; a longer one is refused.
pub const DESCRIPTION_BYTES_MAX: usize = 1_024;
/// Bytes of a field's name in a designed payload; a longer one is refused.
pub const NAME_BYTES_MAX: usize = 256;
/// Fields of a designed payload; more are refused.
pub const PAYLOAD_FIELDS_MAX: usize = 100;
/// Endpoints of one kind and mode that a tenant may have where its profile has no limit; more are refused.
pub const ENDPOINTS_MAX: u32 = 10_000;
/// API keys of one tenant, of one application itself, and of the root; more are refused.
pub const KEYS_MAX: usize = 10_000;
/// Event types of one application; more are refused.
pub const EVENT_TYPES_MAX: usize = 1_000;
/// Bytes of data whose flat form is made where its request or attempt is; of more it leaves the threads that serve everybody.
// It may be as many times as large as its names are long.
pub const FLAT_INLINE_BYTES_MAX: usize = 2 * 1024;
/// Bytes of all paths in the flat form of a body that a profile signs; an event with more is refused.
// Without it a long name over a long list makes gigabytes of paths of a body of 256 KiB.
pub const SIGNED_FORM_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a JSON Schema or of an example; a longer one is refused.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Networks that an API key's callers may be in; more are refused.
pub const ALLOWED_IPS_MAX: usize = 100;
/// Addresses that get notifications by mail; more are refused.
pub const EMAILS_MAX: usize = 20;
/// Periods of a time series in one answer; a finer one is refused.
pub const SERIES_POINTS_MAX: u64 = 1_000;
/// One-off URLs of a tenant and mode that are remembered; with one more, the oldest that nothing waits for ends.
pub const CALLBACKS_MAX: u32 = 10_000;
/// Custom headers of one endpoint; more are refused.
pub const CUSTOM_HEADERS_MAX: usize = 32;
/// Bytes of one custom header's value; a longer one is refused.
pub const HEADER_VALUE_BYTES_MAX: usize = 4_096;
/// Secrets of one endpoint, the current one and those in overlap; a further rotation ends the oldest.
pub const SECRETS_MAX: usize = 10;
/// Hours an idempotency key is remembered.
pub const IDEMPOTENCY_HOURS: u64 = 24;
/// Bytes of a response body kept with an attempt; the rest is cut and the attempt says so.
pub const RESPONSE_BODY_KEPT_BYTES: usize = 16 * 1024;
/// Bytes of response headers kept with an attempt; the rest is cut.
pub const RESPONSE_HEADERS_KEPT_BYTES: usize = 8 * 1024;
/// Seconds by which a signed timestamp may differ from the verifier's clock (Standard Webhooks).
pub const SIGNATURE_TOLERANCE_SECS: u64 = 300;

/// Deliveries that one transaction of the store makes, beside those of one event: others wait for it.
pub const TRANSACTION_ROWS: usize = 4_096;

/// Bytes of the rows of one page of a list of endpoints, about: their headers may be long.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
