//! The servers of one database.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_service::{Caller, NodeStanding};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::openapi::Refusals;
use crate::problem::Answer;
use crate::request::json;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct FollowerView {
    /// Where the other nodes reach it.
    url: String,
    version: String,
    /// Seconds since it follows.
    follows_for_secs: u64,
    /// Attempts that it makes just now for the one that leads.
    under_way: usize,
    /// Attempts that it has made since it follows.
    attempts: u64,
}

impl From<NodeStanding> for FollowerView {
    fn from(node: NodeStanding) -> Self {
        Self {
            url: node.url,
            version: node.version,
            follows_for_secs: node.follows_for.as_secs(),
            under_way: node.under_way,
            attempts: node.attempts,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct NodesView {
    /// Where the others reach the node that leads, which answers this; null of a server that is alone.
    leader: Option<String>,
    followers: Vec<FollowerView>,
}

/// The node that leads, and those that follow it.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "Server", operation_id = "listNodes",
    responses((status = OK, description = "Who leads, and who follows.", body = NodesView), Refusals),
)]
pub(super) async fn list(State(api): State<Api>, caller: Caller) -> Answer {
    let (leader, followers) = match api.service.nodes(&caller)? {
        Some(nodes) => (Some(nodes.leader), nodes.followers),
        None => (None, Vec::new()),
    };
    let followers = followers.into_iter().map(FollowerView::from).collect();
    let view = NodesView { leader, followers };
    let shown: Response = json(StatusCode::OK, &view);
    Ok(shown)
}
