//! A page without HTTP: the endpoints of a tenant, from one call of the service.
//!
//! `cargo run -p postrider-service --example endpoints_page`

use std::sync::Arc;

use postrider_core::limits::PAGE_ROWS_DEFAULT;
use postrider_core::seal::Sealer;
use postrider_core::{Id, id};
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, Exchange, ProfileRegistry, Request, SystemClock, Transport};
use postrider_service::{
    Caller, NewApplication, NewEndpoint, NewTenant, PageRequest, Result, Service,
};
use postrider_store::memory::MemoryStore;

/// The page: whoever looks gets what they may see, or a refusal that says why not.
async fn endpoints_page(service: &Service, who: &Caller, tenant: Id<id::Tenant>) -> Result<String> {
    let first = PageRequest::first(PAGE_ROWS_DEFAULT);
    let (page, profile) = service.list_endpoints(who, tenant, None, first).await?;
    let mut html = String::from("<table>");
    for endpoint in page.rows {
        let id = profile.endpoint_id(endpoint.id, &endpoint.kind);
        let state = match endpoint.health.disabled {
            None => "enabled",
            Some(disabled) => disabled.reason.as_str(),
        };
        html += &format!("<tr><td>{id}<td>{}<td>{state}", endpoint.url);
    }
    Ok(html + "</table>")
}

/// Sends nothing: this example publishes nothing.
struct Nowhere;

#[async_trait::async_trait]
impl Transport for Nowhere {
    async fn send(&self, _: &Request) -> Exchange {
        std::future::pending().await
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let store = Arc::new(MemoryStore::new(1));
    let sealer = Arc::new(Sealer::new(&[7; 32], &[]));
    let engine = Engine::start(postrider_engine::Options {
        store: store.clone(),
        transport: Arc::new(Nowhere),
        clock: Arc::new(SystemClock),
        profiles: Arc::new(ProfileRegistry::load(&*store, Vec::new()).await?),
        sealer: sealer.clone(),
        limits: MachineLimits::default(),
        counted_tenants: 0,
        tracer: None,
    })
    .await?;
    let options = postrider_service::Options::default();
    let service = Service::new(store.clone(), engine, sealer, options);
    let root = postrider_service::new_root_key(&*store, SystemClock.now()).await?;
    let operator = service.admit(service.prove(root.expose(), None).await?, None)?;
    let shop = NewApplication {
        name: "shop".to_owned(),
        profile: "standard".to_owned(),
        settings: None,
    };
    let shop = service.create_application(&operator, shop).await?;
    let ada = NewTenant {
        name: "Ada Ltd".to_owned(),
        ..NewTenant::default()
    };
    let ada = service.create_tenant(&operator, shop.id, ada).await?.tenant;
    let hook = NewEndpoint {
        url: "https://ada.example/hooks".to_owned(),
        ..NewEndpoint::default()
    };
    service.create_endpoint(&operator, ada.id, hook).await?;
    let page = endpoints_page(&service, &operator, ada.id).await?;
    #[expect(clippy::print_stdout, reason = "it is what the example shows")]
    {
        println!("{page}");
    }
    Ok(())
}
