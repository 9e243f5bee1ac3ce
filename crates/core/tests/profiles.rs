//! The built-in profiles on the wire: golden vectors, third-party verifiers, mistakes with lines.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where something is not as it must be"
)]

use postrider_core::id::IdGenerator;
use postrider_core::profile::{
    BUILT_IN, Profile, RenderContext, SigningKey, VerifyError, built_in, signing_key,
};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Secret, Timestamp, id};
use proptest::prelude::*;

const VIGNETIM_DATA: &str = r#"{"orderId":"ord-a1b2c3d4-e5f6-7890-abcd-ef1234567890","status":"COMPLETED","externalReference":"YOUR-ORDER-REF-001","products":[{"productId":"a1b2c3d4-e5f6-7890-abcd-ef1234567890","productTypeId":1,"status":"COMPLETED"}],"total":{"amount":11.5,"currency":"EUR"},"completedAt":"2026-03-20T14:31:15.000Z"}"#;

fn profile(name: &str) -> &'static Profile {
    built_in()
        .iter()
        .find(|profile| profile.name == name)
        .unwrap()
}

fn context<'a>(event_type: &'a str, data: &'a [u8], attempt_at: Timestamp) -> RenderContext<'a> {
    let ids = IdGenerator::new(5, 0);
    let at: Timestamp = "2026-03-20T14:31:15Z".parse().unwrap();
    RenderContext {
        mode_names: None,
        event: ids.next(at),
        event_type,
        occurred_at: at,
        data,
        meta: None,
        mode: Mode::Live,
        tenant: ids.next(at),
        delivery: ids.next(at),
        delivery_created_at: at,
        endpoint: ids.next(at),
        endpoint_url: "https://yourapp.com/webhooks",
        distribution: None,
        key_id: None,
        form: false,
        extra_headers: None,
        traceparent: None,
        attempt_at,
        attempt_number: 1,
    }
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// Renders, signs, and returns body and headers.
fn send(
    profile: &Profile,
    data: &[u8],
    keys: &[SigningKey],
    at: Timestamp,
) -> (Vec<u8>, Vec<(String, String)>) {
    let context = context("order.completed", data, at);
    let body = profile.render_body(&context);
    let headers = profile.render_headers(&context, &body, keys).unwrap();
    (body.to_vec(), headers)
}

fn key(profile: &Profile, secret: &str) -> SigningKey {
    signing_key(&profile.secret, &Secret::new(secret)).unwrap()
}

#[test]
fn vignetim_matches_its_golden_request() {
    let profile = profile("vignetim");
    let keys = [key(
        profile,
        "whs_a1b2c3d4e5f6789012345678901234567890abcdef",
    )];
    let (body, headers) = send(
        profile,
        VIGNETIM_DATA.as_bytes(),
        &keys,
        Timestamp::from_secs(9),
    );
    let expected = format!(
        r#"{{"event":"order.completed","timestamp":"2026-03-20T14:31:15.000Z","data":{VIGNETIM_DATA}}}"#
    );
    assert_eq!(String::from_utf8(body).unwrap(), expected);
    assert_eq!(expected.len(), 377);
    insta::assert_json_snapshot!(headers, @r#"
    [
      [
        "Content-Type",
        "application/json"
      ],
      [
        "X-Webhook-Event",
        "order.completed"
      ],
      [
        "X-Webhook-Timestamp",
        "2026-03-20T14:31:15.000Z"
      ],
      [
        "User-Agent",
        "Postrider/0.1.0"
      ],
      [
        "Accept",
        "*/*"
      ],
      [
        "X-Webhook-Signature",
        "60252f2a3065a3f02999b89cbe0f3e0784d982ae8c805884901ef296f94bd685"
      ]
    ]
    "#);
}

#[test]
fn vignetim_is_equal_on_every_attempt() {
    let profile = profile("vignetim");
    let keys = [key(
        profile,
        "whs_a1b2c3d4e5f6789012345678901234567890abcdef",
    )];
    let first = send(profile, b"{}", &keys, Timestamp::from_secs(1));
    assert_eq!(first, send(profile, b"{}", &keys, Timestamp::from_secs(2)));
}

/// The vectors that the vendors and the specification publish, through the signing path.
#[test]
fn published_vectors_sign_as_published() {
    let raw = |signature: &str, extra: &str| {
        let text = format!(
            "name = \"x\"\n[ids]\nendpoint = \"e{{uuid}}\"\nmessage = \"m{{uuid}}\"\n[secret]\nformat = \"s{{hex:32}}\"\n{extra}\n[body]\ntemplate = '\"$event.data\"'\n[[header]]\nname = \"t\"\nvalue = \"{{attempt.unix}}\"\n[retry]\ndelays = []\n[[signature]]\n{signature}"
        );
        Profile::parse(&text).unwrap()
    };
    let hex = "header = \"S\"\nalgorithm = \"hmac-sha256\"\ninput = \"{body}\"\nencoding = \"hex\"";
    let github = "header = \"S\"\nalgorithm = \"hmac-sha256\"\ninput = \"{body}\"\nencoding = \"hex\"\neach = \"sha256={sig}\"";
    let stripe = "header = \"S\"\nalgorithm = \"hmac-sha256\"\ninput = \"{attempt.unix}.{body}\"\nencoding = \"hex\"\neach = \"v1={sig}\"\nprefix = \"t={attempt.unix}\"\njoin = \",\"";
    for (profile, secret, message, expected) in [
        (
            raw(hex, ""),
            "secretKey",
            r#"{"a":1}"#,
            "a17d2ac229d1ebbb5f10e839c7985c4818e5986eab297f7e5979196d4d7d3ed2",
        ),
        (
            raw(hex, ""),
            "secretKey",
            r#"{"a\"b":1}"#,
            "f7cf97814a03146abedb9793f56e1dec34f618f82d10395310d053f749483ffb",
        ),
        (
            raw(hex, ""),
            "secretKey",
            "  message  ",
            "53ff92957e1427ce23ad5bda9d0c5f2f4ff384d0806b83eeacb510c842d3a358",
        ),
        (
            raw(hex, ""),
            "secret-signature-key",
            r#"{"test":"test1"}"#,
            "5547d4d07430a2d1b77649564c68d80afe591f7cc61ca110bccb442e3205eeec",
        ),
        (
            raw(github, ""),
            "It's a Secret to Everybody",
            "Hello, World!",
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        (
            raw(stripe, ""),
            "whsec_test_secret",
            r#"{"id":"evt_test"}"#,
            "t=1614265330,v1=00cd8805b6dfb4317048892c492f8ff769e2075ec20013c6ed546e639a4e20ba",
        ),
    ] {
        let keys = [key(&profile, secret)];
        let at = Timestamp::from_secs(1_614_265_330);
        let (body, headers) = send(&profile, message.as_bytes(), &keys, at);
        assert_eq!(header(&headers, "S"), Some(expected));
        assert_eq!(
            profile.verify(&|name| header(&headers, name), &body, &keys, at),
            Ok(())
        );
    }
}

#[test]
fn the_standard_webhooks_vector_signs_as_published() {
    let text = "name = \"x\"\n[ids]\nendpoint = \"e{uuid}\"\nmessage = \"m{uuid}\"\n[secret]\nformat = \"whsec_{base64:24}\"\nkey = \"base64_after_prefix\"\n[body]\ntemplate = '\"$event.data\"'\n[retry]\ndelays = []\n[[header]]\nname = \"t\"\nvalue = \"{attempt.unix}\"\n[[signature]]\nheader = \"S\"\nalgorithm = \"hmac-sha256\"\ninput = \"msg_p5jXN8AQM9LWM0D4loKWxJek.{attempt.unix}.{body}\"\nencoding = \"base64\"\neach = \"v1,{sig}\"";
    let profile = Profile::parse(text).unwrap();
    for secret in [
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ] {
        let (_, headers) = send(
            &profile,
            br#"{"test": 2432232314}"#,
            &[key(&profile, secret)],
            Timestamp::from_secs(1_614_265_330),
        );
        assert_eq!(
            header(&headers, "S"),
            Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
    }
}

fn to_http(headers: &[(String, String)]) -> http::HeaderMap {
    headers
        .iter()
        .map(|(name, value)| {
            (
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                http::HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_third_party_library_accepts_standard_signatures_during_rotation() {
    let profile = profile("standard");
    let old = profile.secret.format.make(Mode::Live, &[7; 32]);
    let new = profile.secret.format.make(Mode::Live, &[8; 32]);
    let asymmetric = postrider_core::profile::ed25519_secret(&[9; 32]);
    let keys: Vec<SigningKey> = [&new, &old, &asymmetric]
        .iter()
        .map(|s| signing_key(&profile.secret, s).unwrap())
        .collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let (body, headers) = send(
        profile,
        br#"{"a": 1}"#,
        &keys,
        Timestamp::from_secs(i64::try_from(now).unwrap()),
    );
    let signature = header(&headers, "webhook-signature").unwrap();
    assert_eq!(
        signature
            .split(' ')
            .filter(|part| part.starts_with("v1,"))
            .count(),
        2
    );
    assert_eq!(
        signature
            .split(' ')
            .filter(|part| part.starts_with("v1a,"))
            .count(),
        1
    );
    for secret in [&old, &new] {
        let webhook = standardwebhooks::Webhook::new(secret.expose()).unwrap();
        webhook.verify(&body, &to_http(&headers)).unwrap();
    }
    let public = Secret::new(postrider_core::profile::ed25519_public(&asymmetric).unwrap());
    let public = signing_key(&profile.secret, &public).unwrap();
    let at = Timestamp::from_secs(i64::try_from(now).unwrap());
    assert_eq!(
        profile.verify(&|name| header(&headers, name), &body, &[public], at),
        Ok(())
    );
}

#[test]
fn a_stale_or_incomplete_request_is_refused() {
    let profile = profile("standard");
    let keys = [key(
        profile,
        profile.secret.format.make(Mode::Live, &[7; 32]).expose(),
    )];
    let at = Timestamp::from_secs(1_000_000);
    let (body, headers) = send(profile, b"{}", &keys, at);
    let verify = |headers: &[(String, String)], now| {
        profile.verify(&|name| header(headers, name), &body, &keys, now)
    };
    assert_eq!(verify(&headers, Timestamp::from_secs(1_000_300)), Ok(()));
    assert_eq!(
        verify(&headers, Timestamp::from_secs(1_000_301)),
        Err(VerifyError::Stale)
    );
    assert_eq!(
        verify(&headers, Timestamp::from_secs(999_699)),
        Err(VerifyError::Stale)
    );
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let without: Vec<_> = headers
            .iter()
            .filter(|(known, _)| known != name)
            .cloned()
            .collect();
        assert_eq!(
            verify(&without, at),
            Err(VerifyError::MissingHeader(name.to_owned()))
        );
    }
}

/// A store has the versions that its deliveries were made by, and what is not read any more cannot be sent.
#[test]
fn versions_of_earlier_profiles_still_read() {
    for source in [
        include_str!("../../../fuzz/seeds/profile/voucherify.toml"),
        include_str!("../../../fuzz/seeds/profile/vignetim.toml"),
        include_str!("../../../fuzz/seeds/profile/simplifytrip.toml"),
        include_str!("../../../fuzz/seeds/profile/standard.toml"),
    ] {
        Profile::parse(source).unwrap();
    }
}

/// A built-in profile with some of its placeholders written out, as in a golden request.
fn fixed(name: &str, literals: &[(&str, &str)]) -> Profile {
    let mut source = profile(name).source.clone();
    for (placeholder, literal) in literals {
        assert!(source.contains(placeholder), "{placeholder}");
        source = source.replace(placeholder, literal);
    }
    Profile::parse(&source).unwrap()
}

#[test]
fn simplifytrip_matches_its_golden_signatures_on_every_attempt() {
    let profile = fixed(
        "simplifytrip",
        &[
            ("\"$message.id\"", "\"6740ce7f9d042322159bc640\""),
            ("\"$event.type\"", "\"PURCHASE_ORDER_SUCCESS\""),
            ("\"$message.time\"", "\"2024-11-24T17:42:31.424Z\""),
            ("live = \"live\"", "live = \"TEST_MODE\""),
        ],
    );
    let data = r#"{"orderId":"3248417841","trackId":"06c08ae1-bfac-4f77-1213-a92f53bb15dd","status":"SUCCESS","items":[{"subOrderId":"674362a97cbd7ef05bc12786","subTrackId":"62137526-5b53-475f-4333-4c1e83e13a28","sku":"EAS5XY01GB04DPY","quantity":1,"type":"eSIM","status":"SUCCESS","eSims":[{"iccid":"89812003916820391469","planAPN":"plus.4g"}]}]}"#;
    let keys = [key(&profile, "ck_test_xxxxxxxxxxxxxxxxxxxxxxxx")];
    for (sent_at, expected) in [
        (
            "2024-11-24T17:42:31.424Z",
            "d3612e5cd7102b78f2f9f55e0605e55973445b25e7c9ee10437c5366d64e7ba0",
        ),
        (
            "2024-11-24T17:47:31.424Z",
            "cbaa60e9ed6505c244cc0e36bdc08dddf163071280569940e24f72dff9666cdf",
        ),
    ] {
        let at = sent_at.parse().unwrap();
        let (body, headers) = send(&profile, data.as_bytes(), &keys, at);
        assert!(
            std::str::from_utf8(&body)
                .unwrap()
                .contains(&format!(r#""sentDate":"{sent_at}","mode":"TEST_MODE""#))
        );
        assert_eq!(
            header(&headers, "X-Simplify-Trip-Signature"),
            Some(expected)
        );
        assert_eq!(
            profile.verify(&|name| header(&headers, name), &body, &keys, at),
            Ok(())
        );
    }
}

#[test]
fn voucherify_matches_its_golden_body_and_signature() {
    let profile = fixed(
        "voucherify",
        &[
            ("\"$message.id\"", "\"whs_0e16e42bc6e0c65b57\""),
            ("\"$tenant.id\"", "\"proj_5T4Rpl4T1nuM\""),
            ("\"$message.time\"", "\"2024-01-01T11:11:11.111Z\""),
            ("\"$event.type\"", "\"redemption.succeeded\""),
            ("\"$endpoint.id\"", "\"wh_j56Vfy47Vx9YOX7QYD1fzHnc\""),
            ("\"$endpoint.url\"", "\"https://your.website.io\""),
        ],
    );
    let meta = br#"{ "id":"evred_1f3611301f3127befb", "type":"redemption.succeeded","created_at":"2024-01-01T11:11:11.111Z","entity_id":"r_1f3611302bf107befb","group_id":"v-1f36113948e50fc4fe","event_source":{"channel":"API","api_key":{"name":"My app","app_id":"c70a6f00-cf91-4756-9df5-47628850002b"}}}"#;
    let at = Timestamp::from_secs(1);
    let context = RenderContext {
        meta: Some(meta),
        ..context("redemption.succeeded", b"{ }", at)
    };
    let keys = [key(&profile, "secretKey")];
    let body = profile.render_body(&context);
    assert_eq!(body.len(), 538);
    let headers = profile.render_headers(&context, &body, &keys).unwrap();
    assert_eq!(
        header(&headers, "x-voucherify-signature"),
        Some("77217734d2908b8f525e446fdcdcc9501ec06e00a2f293f030266b8fb8dc9392")
    );
}

#[test]
fn wire_ids_have_the_documented_shape() {
    let at = Timestamp::from_secs(1_774_017_075);
    let context = context("redemption.succeeded", b"{}", at);
    let voucherify = profile("voucherify");
    let body: serde_json::Value =
        serde_json::from_slice(&voucherify.render_body(&context)).unwrap();
    let shape = |text: &str, prefix: &str, len: usize| {
        let rest = text.strip_prefix(prefix).unwrap();
        assert!(
            rest.len() == len && rest.bytes().all(|b| b.is_ascii_alphanumeric()),
            "{text}"
        );
    };
    shape(body["id"].as_str().unwrap(), "whs_", 18);
    shape(body["project_id"].as_str().unwrap(), "proj_", 12);
    shape(body["source"]["id"].as_str().unwrap(), "wh_", 24);
    assert_eq!(body["event"], serde_json::Value::Null);
    let simplifytrip = profile("simplifytrip");
    shape(
        &simplifytrip.message_id(context.event, context.delivery),
        "",
        24,
    );
    let github = profile("github");
    let keys = [key(github, "s3cret")];
    let headers = github.render_headers(&context, b"{}", &keys).unwrap();
    assert!(
        header(&headers, "X-GitHub-Hook-ID")
            .unwrap()
            .parse::<i64>()
            .is_ok()
    );
    assert!(
        header(&headers, "X-Hub-Signature")
            .unwrap()
            .starts_with("sha1=")
    );
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let text = "name = \"Bad Name\"\n\n[ids]\nendpoint = \"wh-{uuid}\"\nmessage = \"{hex:3}\"\n[secret]\nformat = \"whs_{hex:42}\"\nkey = \"utf9\"\n[body]\ntemplate = '{\"a\":\"$event.nope\"}'\ncontent_type = \"text/\\u007f\"\n[retry]\ndelays = [\"0s\", \"fast\"]\nretries = 3\n[[signature]]\nheader = \"X\"\nalgorithm = \"hmac-sha256\"\nencoding = \"hex\"\ninput = \"{attempt.unix}{body}\"\n[http]\nschemes = [\"gopher\"]\nconnect_timeout = \"0s\"\n[classify]\nok = \"abc\"\n";
    let mistakes = Profile::parse(text).unwrap_err();
    let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    insta::assert_json_snapshot!(told);
    assert!(
        matches!(Profile::parse("name = ").unwrap_err().as_slice(), [mistake] if mistake.line == 1)
    );
}

#[test]
fn built_in_files_carry_their_names() {
    for ((name, source), profile) in BUILT_IN.iter().zip(built_in()) {
        assert_eq!(*name, profile.name);
        assert_eq!(*source, profile.source);
    }
}

#[test]
fn an_endpoint_id_is_read_back_from_the_wire() {
    let id: Id<id::Endpoint> = IdGenerator::new(5, 0).next(Timestamp::from_secs(1_774_017_075));
    let format = &profile("vignetim").ids.endpoint;
    let text = format.render(id);
    assert!(text.starts_with("wh-") && text.len() == 39, "{text}");
    assert_eq!(format.read(&text), Some(id));
}

/// What the template says, the slow way: by replacing text.
fn naive_body(context: &RenderContext<'_>) -> String {
    r#"{"event":"$event.type","timestamp":"$event.time","data":"$event.data"}"#
        .replace("$event.type", context.event_type)
        .replace("$event.time", &context.occurred_at.iso_ms())
        .replace(
            "\"$event.data\"",
            std::str::from_utf8(context.data).unwrap(),
        )
}

proptest! {
    #[test]
    fn the_compiled_rendering_equals_a_naive_one_and_keeps_the_payload(text in "[ -~é\u{2028}]{0,40}", number in any::<f64>()) {
        let number = if number.is_finite() { number } else { 0.0 };
        let data = format!("{{ \"a\" : {},\n\"b\":[{number:?}, 11.50] }}", serde_json::to_string(&text).unwrap());
        let context = context("order.completed", data.as_bytes(), Timestamp::from_secs(3));
        let body = profile("vignetim").render_body(&context);
        prop_assert_eq!(std::str::from_utf8(&body).unwrap(), naive_body(&context));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_refused(name in prop_oneof![Just("standard"), Just("vignetim")], position in any::<prop::sample::Index>(), bit in 0_u8..8, random in any::<u8>()) {
        let profile = profile(name);
        let random = vec![random; profile.secret.format.random_len()];
        let keys = [signing_key(&profile.secret, &profile.secret.format.make(Mode::Live, &random)).unwrap()];
        let at = Timestamp::from_secs(1_700_000_000);
        let (mut body, mut headers) = send(profile, br#"{"order":1}"#, &keys, at);
        prop_assert_eq!(profile.verify(&|n| header(&headers, n), &body, &keys, at), Ok(()));
        let signature = headers.iter_mut().find(|(n, _)| n.ends_with("ignature")).unwrap();
        let position = position.index(body.len() + signature.1.len());
        if position < body.len() {
            body[position] ^= 1 << bit;
        } else {
            let mut bytes = std::mem::take(&mut signature.1).into_bytes();
            bytes[position - body.len()] ^= 1 << (bit % 7);
            signature.1 = String::from_utf8(bytes).unwrap();
        }
        prop_assert!(profile.verify(&|n| header(&headers, n), &body, &keys, at).is_err());
    }
}

#[test]
fn github_signs_a_form_as_it_is_sent() {
    let profile = profile("github");
    let keys = [key(profile, "It's a Secret to Everybody")];
    let at = Timestamp::from_secs(1_774_017_075);
    let data = br#"{"zen": "Keep it & simple"}"#;
    let context = RenderContext {
        form: true,
        ..context("push", data, at)
    };
    let body = profile.render_body(&context);
    assert_eq!(
        &*body,
        b"payload=%7B%22zen%22%3A+%22Keep+it+%26+simple%22%7D"
    );
    let headers = profile.render_headers(&context, &body, &keys).unwrap();
    assert_eq!(
        header(&headers, "content-type"),
        Some("application/x-www-form-urlencoded")
    );
    let hmac =
        aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"It's a Secret to Everybody");
    let expected = postrider_core::seal::hex(aws_lc_rs::hmac::sign(&hmac, &body).as_ref());
    assert_eq!(
        header(&headers, "x-hub-signature-256"),
        Some(format!("sha256={expected}").as_str())
    );
    // Without the wish for a form, JSON.
    let json = RenderContext {
        form: false,
        ..context
    };
    assert_eq!(&*profile.render_body(&json), data);
}

#[test]
fn stripe_tries_test_events_three_times_over_hours_and_live_ones_for_days() {
    let profile = profile("stripe");
    let start = Timestamp::from_secs(1_774_017_075);
    let hours = |mode| {
        let (mut at, mut made, mut hours) = (start, 1, Vec::new());
        while let Some(due) = profile.retry(mode).due_at(made, start, at, at, 0.5) {
            hours.push(due.since(start).as_secs_f64() / 3_600.0);
            (at, made) = (due, made + 1);
        }
        hours
    };
    let test = hours(Mode::Test);
    assert_eq!(test.len(), 3);
    assert!(test[2] > 4.0 && test[2] < 5.0, "{test:?}");
    let live = hours(Mode::Live);
    assert!(
        live.len() > 3 && live.iter().all(|at| *at <= 72.0),
        "{live:?}"
    );
}

#[test]
fn a_schedule_has_so_many_steps_and_no_more() {
    let built_in = include_str!("../../../profiles/standard.toml");
    let start = built_in.find("[retry]").unwrap();
    let end = start + 1 + built_in[start + 1..].find("\n[").unwrap();
    let with = |key: &str, steps: u32| {
        let steps: Vec<String> = (1..=steps).map(|step| format!("\"{step}s\"")).collect();
        let retry = format!("[retry]\n{key} = [{}]\n", steps.join(", "));
        format!("{}{retry}{}", &built_in[..start], &built_in[end..])
    };
    for key in ["delays", "offsets"] {
        Profile::parse(&with(key, 64)).unwrap();
        let mistakes = Profile::parse(&with(key, 65)).unwrap_err();
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        assert!(told[0].contains("more than 64 steps"), "{told:?}");
    }
}
