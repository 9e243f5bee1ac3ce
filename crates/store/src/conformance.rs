//! The conformance suite: what every store must do, one function for each rule.
//!
//! `store_conformance!(fresh_store().await)` in a test file of a store runs all of it.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]
#![expect(clippy::too_many_lines, reason = "a rule is told in one piece")]

mod catalogue;
mod catching_up;
mod deletions;
mod endpoints;
mod events;
pub mod fixture;
mod keys;
mod lanes;
mod log;
mod notices;
mod reading;
mod retention;
mod sessions;
mod tasks;
mod users;

/// Runs every rule, each against a store of its own made by `$fresh`.
#[macro_export]
macro_rules! store_conformance {
    ($fresh:expr) => {
        $crate::store_conformance!(@all $fresh;
            a_published_event_and_its_deliveries_appear_together,
            the_same_key_and_body_returns_the_first_event,
            the_same_key_with_another_body_is_a_conflict,
            an_idempotency_key_is_forgotten_after_its_time,
            an_idempotency_key_is_remembered_however_the_clock_is_set,
            an_idempotency_key_tells_its_first_use,
            payload_bytes_come_back_unchanged,
            an_event_that_matches_nothing_is_stored,
            an_endpoint_created_later_gets_nothing_from_the_past,
            only_subscribed_enabled_endpoints_of_the_mode_get_it,
            an_endpoint_with_a_filter_gets_what_meets_it,
            an_event_may_be_addressed_to_one_endpoint,
            an_addressed_event_reaches_no_endpoint_of_another_mode,
            one_bad_write_does_not_spoil_the_batch,
            a_batch_larger_than_a_transaction_is_answered_by_kind,
            an_event_for_very_many_is_there_whole_or_not_at_all,
            what_an_event_said_is_deleted_when_nothing_of_it_waits,
            a_lane_is_read_in_order_and_in_pages,
            a_page_ends_with_the_delivery_that_reaches_its_bytes,
            an_unordered_retry_moves_to_its_time_and_an_ordered_one_stays,
            the_backlog_names_every_lane_with_work,
            recording_twice_is_recording_once,
            attempt_numbers_have_no_gaps,
            a_finished_delivery_is_never_due_again,
            times_survive_to_the_microsecond,
            everything_about_an_attempt_comes_back,
            a_long_history_is_read_from_its_end,
            a_delivery_has_a_bounded_number_of_attempts,
            a_delivery_ended_meanwhile_stays_ended_unless_it_succeeded,
            the_tenth_failure_disables_exactly_once,
            a_success_resets_the_counter,
            another_address_says_nothing_of_an_endpoint,
            a_closed_endpoints_pending_deliveries_are_finished_in_pages,
            an_enabled_endpoint_keeps_what_is_pending,
            a_resend_is_pending_again_with_its_own_series,
            a_pending_delivery_is_not_resent,
            an_endpoint_comes_back_as_it_was_written,
            the_limit_counts_registered_endpoints_of_a_mode,
            a_deleted_endpoint_is_not_found_but_its_lane_is,
            endpoints_are_read_for_their_lanes_in_the_order_asked,
            a_change_that_refuses_writes_nothing,
            tenants_are_made_for_the_profile_that_their_application_has,
            keys_are_bounded_for_each_owner,
            a_keys_text_and_public_id_are_its_own,
            names_are_unique_where_they_must_be,
            a_page_of_endpoints_is_bounded_in_bytes,
            a_callback_endpoint_is_found_by_its_url_and_not_listed,
            an_external_id_names_one_endpoint_of_a_tenant_and_mode,
            of_too_many_callbacks_the_oldest_idle_one_ends,
            an_id_that_was_never_given_is_not_found,
            keys_are_found_by_hash_and_public_id,
            the_last_root_key_stays,
            a_rotated_key_is_found_by_both_texts_as_long_as_it_has_them,
            a_nonce_is_used_once,
            the_same_profile_text_has_one_version,
            a_task_comes_back_as_it_was_put,
            tasks_are_listed_by_owner_and_kind,
            endpoints_that_fail_are_listed_by_how_long,
            what_a_deleted_tenant_had_is_gone_and_nothing_else,
            an_application_goes_with_its_tenants,
            pages_are_stable_while_rows_arrive,
            lists_can_be_of_one_mode,
            a_summary_of_an_event_lacks_its_data_only,
            what_a_clock_made_that_was_set_back_is_found_at_its_time,
            a_cursor_of_another_query_is_refused,
            deliveries_can_be_listed_from_the_oldest,
            tenants_are_listed_in_either_order,
            endpoints_are_listed_in_either_order,
            deliveries_are_filtered_by_every_column,
            counts_equal_what_the_pages_hold,
            only_live_distributions_with_the_trigger_get_a_distributions_event,
            a_key_and_its_endpoint_live_and_end_together,
            every_change_is_in_the_audit_log,
            notices_are_listed_over_all_tenants,
            a_final_failure_is_told_once_to_who_asked_for_it,
            notices_can_be_of_one_mode,
            what_waited_when_its_endpoint_gave_out_is_told,
            thousands_that_waited_are_told_and_read,
            what_expired_is_told_and_one_resent_by_hand_is_not,
            a_failure_of_a_deleted_distribution_is_told_as_one,
            statistics_sum_up_to_what_the_pages_hold,
            types_without_end_are_counted_together,
            an_endpoint_catches_up_on_what_it_missed_and_on_nothing_else,
            what_does_not_meet_the_filter_was_not_missed,
            an_endpoint_of_a_key_catches_up_on_what_was_addressed_to_it,
            a_paused_distribution_skips_what_comes_until_somebody_asks_for_it,
            a_count_in_pages_is_what_the_pages_hold,
            what_has_expired_is_not_caught_up,
            what_has_expired_is_not_sent_again,
            nothing_is_noted_of_an_owner_that_is_gone,
            a_link_lets_one_in_once,
            of_too_many_sessions_the_oldest_ends,
            sessions_end_with_what_they_are_of,
            a_user_is_found_by_name_and_changed,
            a_password_replaces_the_one_that_was_known,
            a_user_goes_with_what_it_opened,
            what_ended_long_ago_goes_and_what_waits_stays,
            an_application_may_keep_what_it_has_for_longer,
            notices_tasks_and_the_audit_log_go_by_their_age,
            an_endpoint_that_was_deleted_goes_with_the_last_of_its_deliveries,
        );
    };
    (@all $fresh:expr; $($rule:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $rule() {
            let store = $fresh;
            $crate::conformance::rules::$rule(&*store).await;
        }
    )*};
}

/// The rules by name.
pub mod rules {
    pub use super::catalogue::*;
    pub use super::catching_up::*;
    pub use super::deletions::*;
    pub use super::endpoints::*;
    pub use super::events::*;
    pub use super::keys::*;
    pub use super::lanes::*;
    pub use super::log::*;
    pub use super::notices::*;
    pub use super::reading::*;
    pub use super::retention::*;
    pub use super::sessions::*;
    pub use super::tasks::*;
    pub use super::users::*;
}
