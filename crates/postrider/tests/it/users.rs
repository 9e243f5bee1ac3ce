//! People of the console: they choose a password, come in by name, and may do what their role says.

use serde_json::{Value, json};

use crate::pages::browser::{Browser, path_of};
use crate::support::{Reply, TestServer, id, text};

const PASSWORD: &str = "a correct horse, and a battery";

/// A user as it is made, with its link.
async fn make(server: &TestServer, name: &str, role: &str) -> Value {
    let asked = json!({ "name": name, "role": role });
    server.good("POST", "/v1/users", asked).await
}

async fn users(server: &TestServer) -> Value {
    server.good("GET", "/v1/users", Value::Null).await
}

/// Somebody who chose a password by their link.
async fn came<'s>(server: &'s TestServer, made: &Value) -> Browser<'s> {
    let mut browser = Browser::new(server);
    let chosen = choose(&mut browser, text(made, "url"), PASSWORD).await;
    assert_eq!(chosen.status, 303, "{chosen:?}");
    browser
}

async fn choose(browser: &mut Browser<'_>, link: &str, password: &str) -> Reply {
    let path = path_of(link);
    let (path, code) = path.split_once("?code=").unwrap();
    let form = [("code", code), ("password", password), ("again", password)];
    browser.send("POST", path, &form).await
}

async fn sign_in(browser: &mut Browser<'_>, name: &str, password: &str) -> Reply {
    let form = [("name", name), ("password", password)];
    browser.send("POST", "/sign-in", &form).await
}

#[tokio::test]
async fn somebody_chooses_a_password_by_a_link_and_comes_in_by_name() {
    let server = TestServer::start().await;
    let made = make(&server, " Ada@Example.com ", "owner").await;
    assert_eq!(text(&made, "name"), "ada@example.com");
    assert_eq!(made["passwordSince"], Value::Null);
    let link = text(&made, "url").to_owned();
    let mut ada = Browser::new(&server);
    let page = ada.page(&path_of(&link)).await;
    assert!(page.contains("You are <strong>ada@example.com</strong>"));
    // One that would be guessed is refused, and the link stays.
    for bad in ["", "too short", "ada@example.com!!"] {
        let refused = choose(&mut ada, &link, bad).await;
        assert_eq!(refused.status, 400, "{bad}: {refused:?}");
        assert!(refused.text.contains("role=\"alert\""), "{refused:?}");
        assert!(ada.cookies.is_empty());
    }
    let chosen = choose(&mut ada, &link, PASSWORD).await;
    assert_eq!(chosen.headers["location"], "/");
    assert!(ada.page("/").await.contains(">ada@example.com</a>"));
    // Nobody else chooses by it.
    let mut eve = Browser::new(&server);
    assert_eq!(choose(&mut eve, &link, PASSWORD).await.status, 404);

    // The wrong name and the wrong password read alike.
    let wrong = sign_in(&mut eve, "ada@example.com", "another horse entirely").await;
    let nobody = sign_in(&mut eve, "nobody@example.com", PASSWORD).await;
    assert_eq!((wrong.status, nobody.status), (401, 401));
    let told = |reply: &Reply| {
        let from = reply.text.find("role=\"alert\"").unwrap();
        reply.text[from..].split('<').next().unwrap().to_owned()
    };
    assert_eq!(told(&wrong), told(&nobody));
    let right = sign_in(&mut eve, "ADA@example.com", PASSWORD).await;
    assert_eq!(right.status, 303, "{right:?}");
    assert!(right.headers["set-cookie"].contains("; HttpOnly; SameSite=Lax"));
    // What was typed stands nowhere.
    let audit = server.call("GET", "/v1/audit", Value::Null).await.text;
    assert!(
        audit.contains("user.created")
            && audit.contains("\"name\":\"ada@example.com\"},\"action\":\"session.created\""),
        "{audit}"
    );
    assert!(
        !audit.contains("horse") && !audit.contains("argon2"),
        "{audit}"
    );
}

#[tokio::test]
async fn a_role_says_what_somebody_may() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    for (role, makes, manages) in [
        ("owner", 200, 200),
        ("developer", 200, 403),
        ("viewer", 400, 403),
    ] {
        let made = make(&server, role, role).await;
        let mut somebody = came(&server, &made).await;
        let home = somebody.page("/").await;
        assert_eq!(home.contains("href=\"/users\""), manages == 200, "{role}");
        assert_eq!(home.contains("looks only"), role == "viewer", "{role}");
        somebody.page(&format!("/tenants/{tenant}")).await;
        let form = [("url", "https://example.com/hook")];
        let path = format!("/tenants/{tenant}/endpoints");
        let reply = somebody.press(&path, &form).await;
        assert_eq!(reply.status, makes, "{role}: {reply:?}");
        let listed = somebody.send("GET", "/users", &[]).await;
        assert_eq!(listed.status, manages, "{role}");
        let form = [("name", "eve"), ("role", "owner")];
        let more = somebody.press("/users", &form).await;
        assert_eq!(more.status, manages, "{role}");
        if role == "owner" {
            assert!(more.text.contains("/enter?code="), "{more:?}");
            let eve = users(&server).await["data"][0]["id"].clone();
            let path = format!("/users/{}/delete", eve.as_str().unwrap());
            assert_eq!(somebody.press(&path, &[]).await.status, 303);
        }
    }
    let left = users(&server).await;
    assert_eq!(left["data"].as_array().unwrap().len(), 3, "{left}");
}

#[tokio::test]
async fn who_is_kept_out_is_out_at_once() {
    let server = TestServer::start().await;
    let made = make(&server, "ada", "viewer").await;
    let mut ada = came(&server, &made).await;
    ada.page("/").await;
    let path = format!("/v1/users/{}", id(&made));
    server
        .good("PATCH", &path, json!({ "role": "developer" }))
        .await;
    assert!(
        !ada.page("/").await.contains("looks only"),
        "from the next page on"
    );

    server
        .good("PATCH", &path, json!({ "active": false }))
        .await;
    assert_eq!(ada.send("GET", "/", &[]).await.status, 303);
    assert_eq!(sign_in(&mut ada, "ada", PASSWORD).await.status, 401);
    let links = format!("{path}/links");
    let refused = server.call("POST", &links, Value::Null).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    server.good("PATCH", &path, json!({ "active": true })).await;
    // What she had open before stays closed.
    assert_eq!(ada.send("GET", "/", &[]).await.status, 303);
    assert_eq!(sign_in(&mut ada, "ada", PASSWORD).await.status, 303);

    // A forgotten password: the link in the place of it ends what was, and older links with it.
    let first = server.good("POST", &links, Value::Null).await;
    let second = server.good("POST", &links, Value::Null).await;
    let mut elsewhere = Browser::new(&server);
    let first = choose(&mut elsewhere, text(&first, "url"), PASSWORD).await;
    assert_eq!(first.status, 404, "the newer one alone opens something");
    ada.page("/").await;
    let chosen = choose(
        &mut elsewhere,
        text(&second, "url"),
        "another horse entirely",
    )
    .await;
    assert_eq!(chosen.status, 303, "{chosen:?}");
    assert_eq!(
        ada.send("GET", "/", &[]).await.status,
        303,
        "she was in before"
    );
    assert_eq!(sign_in(&mut ada, "ada", PASSWORD).await.status, 401);

    server.good("DELETE", &path, Value::Null).await;
    assert_eq!(elsewhere.send("GET", "/", &[]).await.status, 303);
    let again = make(&server, "ada", "viewer").await;
    assert_ne!(id(&again), id(&made));
}

#[tokio::test]
async fn a_password_is_changed_by_who_has_it_and_ends_other_visits() {
    let server = TestServer::start().await;
    let made = make(&server, "ada", "owner").await;
    let mut here = came(&server, &made).await;
    let mut there = Browser::new(&server);
    assert_eq!(sign_in(&mut there, "ada", PASSWORD).await.status, 303);
    let page = here.page("/me").await;
    assert_eq!(page.matches("Sign out there").count(), 1, "{page}");
    assert!(page.contains("You are an owner"), "{page}");
    let form = [
        ("present", "not my password"),
        ("password", "another horse entirely"),
        ("again", "another horse entirely"),
    ];
    let refused = here.press("/me/password", &form).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    let form = [
        ("present", PASSWORD),
        ("password", "another horse entirely"),
        ("again", "another horse entirely"),
    ];
    let changed = here.press("/me/password", &form).await;
    assert_eq!(changed.headers["location"], "/me?told=password");
    here.page("/me").await;
    assert_eq!(there.send("GET", "/me", &[]).await.status, 303);

    // One ends a visit of one's own, and nobody else's.
    assert_eq!(
        sign_in(&mut there, "ada", "another horse entirely")
            .await
            .status,
        303
    );
    let page = here.page("/me").await;
    let (_, rest) = page.split_once("/me/visits/").unwrap();
    let visit = rest.split('/').next().unwrap();
    let path = format!("/me/visits/{visit}/end");
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let own = operator.page("/me").await;
    assert!(own.contains("You came in with this key"), "{own}");
    assert!(!own.contains("Present password"), "{own}");
    assert_eq!(operator.press(&path, &[]).await.status, 404);
    assert_eq!(here.press(&path, &[]).await.status, 303);
    assert_eq!(there.send("GET", "/me", &[]).await.status, 303);
    here.page("/me").await;
}

#[tokio::test]
async fn a_user_of_one_application_reaches_nothing_else() {
    let server = TestServer::start().await;
    let own = server.application("own", "standard").await;
    let other = server.application("other", "standard").await;
    let asked = json!({ "name": "ada", "role": "owner", "application": own });
    let made = server.good("POST", "/v1/users", asked).await;
    let mut ada = Browser::new(&server);
    let chosen = choose(&mut ada, text(&made, "url"), PASSWORD).await;
    let home = format!("/applications/{}", own);
    assert_eq!(chosen.headers["location"], home);
    ada.page(&home).await;
    let elsewhere = format!("/applications/{}", other);
    assert_eq!(ada.send("GET", &elsewhere, &[]).await.status, 404);
    ada.page("/users").await;
    let form = [
        ("name", "bob"),
        ("role", "owner"),
        ("application", other.as_str()),
    ];
    assert_eq!(ada.press("/users", &form).await.status, 404);
    // What is not said is her own application.
    let form = [("name", "bob"), ("role", "viewer")];
    let bob = ada.press("/users", &form).await;
    assert_eq!(bob.status, 200, "{bob:?}");
    let bob = users(&server).await["data"][0].clone();
    assert_eq!(bob["application"], json!(own));
    let everybody = make(&server, "root", "viewer").await;
    let path = format!("/users/{}/delete", id(&everybody));
    ada.page("/users").await;
    let refused = ada.press(&path, &[]).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text.contains("not yours"), "{refused:?}");
    assert_eq!(users(&server).await["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn nobody_tries_passwords_for_long() {
    let server = TestServer::start().await;
    let made = make(&server, "ada", "owner").await;
    came(&server, &made).await;
    let mut eve = Browser::new(&server);
    let mut answers = Vec::new();
    for _ in 0..11 {
        answers.push(
            sign_in(&mut eve, "ada", "a guess that is wrong")
                .await
                .status,
        );
    }
    assert_eq!(answers[..10], [401; 10]);
    assert_eq!(answers[10], 429);
    let right = sign_in(&mut eve, "ada", PASSWORD).await;
    assert_eq!(right.status, 429, "not even with the right one");
    assert!(right.text.contains("wait 10 minutes"), "{right:?}");
    // Somebody else who is where she is comes in.
    make(&server, "bob", "owner").await;
    assert_eq!(sign_in(&mut eve, "bob", PASSWORD).await.status, 401);
    assert_eq!(
        Browser::sign_in(&server, &server.root)
            .await
            .send("GET", "/", &[])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn what_is_an_owners_is_nobody_elses_and_ones_own_password_takes_the_old_one() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let made = make(&server, "dev", "developer").await;
    let mut dev = came(&server, &made).await;
    // How long what has ended is kept decides what is deleted for good.
    let path = format!("/applications/{application}/settings");
    assert!(!dev.page(&path).await.contains("retention_days"));
    let form = [
        ("name", "shop"),
        ("validate", "warn"),
        ("retention_days", "1"),
    ];
    assert_eq!(dev.press(&path, &form).await.status, 303);
    let stored = format!("/v1/applications/{application}");
    let stored = server.good("GET", &stored, Value::Null).await;
    assert_eq!(stored["settings"]["validate"], "warn");
    assert_eq!(stored["settings"]["retentionDays"], Value::Null);

    let made = make(&server, "ada", "owner").await;
    let mut ada = came(&server, &made).await;
    ada.page("/users").await;
    for act in ["link", "delete", "disable", "role"] {
        let path = format!("/users/{}/{act}", id(&made));
        let refused = ada.press(&path, &[("role", "viewer")]).await;
        assert_eq!(refused.status, 400, "{act}: {refused:?}");
        assert!(!refused.text.contains("/enter?code="), "{act}");
    }
    // A name that two people could read as theirs is none.
    for name in ["", " ", "ada\u{200b}", "\u{200b}", "a\nb"] {
        let asked = json!({ "name": name, "role": "viewer" });
        let refused = server.call("POST", "/v1/users", asked).await;
        assert_eq!(refused.status, 400, "{name:?}: {refused:?}");
    }
    let again = json!({ "name": "ADA", "role": "viewer" });
    let taken = server.call("POST", "/v1/users", again).await;
    assert_eq!((taken.status, taken.code().as_str()), (409, "name_taken"));
}

#[tokio::test]
async fn a_portal_that_a_user_opened_ends_with_what_they_may() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let made = make(&server, "dev", "developer").await;
    let mut dev = came(&server, &made).await;
    dev.page(&format!("/tenants/{tenant}")).await;
    let opened = dev.press(&format!("/tenants/{tenant}/portal"), &[]).await;
    let link = format!("http://host{}", opened.headers["location"]);
    let mut portal = Browser::by_link(&server, &link).await;
    portal.page("/portal").await;
    let form = [("url", "https://example.com/hook")];
    let path = format!("/portal/tenants/{tenant}/endpoints");
    assert_eq!(portal.press(&path, &form).await.status, 200);
    // The product's log says who it was; the customer's that it was the product.
    let log = server
        .good("GET", "/v1/audit?action=endpoint.created", Value::Null)
        .await;
    assert_eq!(log["data"][0]["actor"]["user"], made["id"]);
    let by_user = format!("/v1/audit?user={}", id(&made));
    let by_user = server.good("GET", &by_user, Value::Null).await;
    assert!(by_user["data"].as_array().unwrap().len() >= 3, "{by_user}");
    let own = portal.page("/portal/audit").await;
    assert!(own.contains("somebody of the product"), "{own}");

    // Whoever has opened it with a password that somebody knows is not in it any longer than that.
    let form = [
        ("present", PASSWORD),
        ("password", "another horse entirely"),
        ("again", "another horse entirely"),
    ];
    dev.page("/me").await;
    let changed = dev.press("/me/password", &form).await;
    assert_eq!(changed.headers["location"], "/me?told=password");
    assert_eq!(portal.send("GET", "/portal", &[]).await.status, 401);
    dev.page(&format!("/tenants/{tenant}")).await;
    let opened = dev.press(&format!("/tenants/{tenant}/portal"), &[]).await;
    let link = format!("http://host{}", opened.headers["location"]);
    let mut portal = Browser::by_link(&server, &link).await;
    portal.page("/portal").await;

    let path = format!("/v1/users/{}", id(&made));
    server
        .good("PATCH", &path, json!({ "role": "viewer" }))
        .await;
    assert_eq!(portal.send("GET", "/portal", &[]).await.status, 401);
}

#[tokio::test]
async fn whoever_becomes_somebody_else_is_not_who_they_were() {
    let server = TestServer::start().await;
    let mut here = Browser::sign_in(&server, &server.root).await;
    let before = here.cookies.clone();
    let made = make(&server, "ada", "owner").await;
    choose(&mut here, text(&made, "url"), PASSWORD).await;
    assert!(here.page("/me").await.contains("You are an owner"));
    let mut kept = Browser::new(&server);
    kept.cookies = before;
    assert_eq!(kept.send("GET", "/", &[]).await.status, 303);
}

#[tokio::test]
async fn the_users_of_an_application_end_with_it() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let asked = json!({ "name": "ada", "role": "owner", "application": application });
    let made = server.good("POST", "/v1/users", asked).await;
    let mut ada = Browser::new(&server);
    choose(&mut ada, text(&made, "url"), PASSWORD).await;
    ada.page(&format!("/applications/{application}")).await;
    let path = format!("/v1/applications/{application}");
    server.good("DELETE", &path, Value::Null).await;
    // At once, however long it takes until all that was its is erased.
    let out = ada
        .send("GET", &format!("/applications/{application}"), &[])
        .await;
    assert_eq!(out.status, 303, "{out:?}");
    assert_eq!(sign_in(&mut ada, "ada", PASSWORD).await.status, 401);
}
