//! Rows of `docs/limits.md` at which nobody is refused: what is there beyond the bound waits, is cut, or is forgotten.

/// Each with a test that reaches it, or what enforces it.
pub(super) const REACHED: &[(&str, &str)] = &[
    (
        "connections of callers",
        "who_holds_all_connections_keeps_nobody_out",
    ),
    ("cells of a door", "a_door_that_cannot_be_one_says_why"),
    (
        "applications that have counts of their own in `/metrics`",
        "owners_beyond_the_bound_are_counted_together",
    ),
    (
        "tenants that have counts of their own in `/metrics`",
        "every_stage_from_publish_to_receipt_is_counted",
    ),
    (
        "time for a client's TLS handshake, where the server speaks TLS",
        "who_begins_no_handshake_holds_no_connection",
    ),
    (
        "time for the next request's headers, and so for an idle connection",
        "an_idle_connection_is_kept_as_long_as_the_answer_says",
    ),
    (
        "what is let pass of a body that nobody reads, so that its sender gets the answer",
        "no_more_is_let_pass_than_its_bytes_and_its_time",
    ),
    (
        "time that a line of the log waits for whoever reads it",
        "a_server_goes_on_when_its_log_is_a_pipe_that_is_full",
    ),
    (
        "time without taking a byte of an answer",
        "a_client_that_does_not_take_its_answer_is_let_go",
    ),
    (
        "an `X-Request-Id` that is kept",
        "a_long_id_of_a_request_is_not_kept",
    ),
    (
        "rows that a list of Svix's API looks at",
        "a_list_ends_although_nothing_was_attempted_yet",
    ),
    (
        "answers of Svix's API to POSTs, kept for those that are sent again",
        "who_makes_very_much_drives_nobodys_answers_out",
    ),
    (
        "rows that a list with filters looks at",
        "a_rare_row_is_found_behind_many_others_in_a_later_page",
    ),
    (
        "event types told of one by one in statistics",
        "types_without_end_are_counted_together",
    ),
    (
        "endpoints told of one by one in statistics",
        "statistics_tell_of_so_many_endpoints_and_how_many_more_there_are",
    ),
    (
        "keys, and tenants, whose windows are counted",
        "windows_that_are_over_are_forgotten_when_there_are_many",
    ),
    (
        "time that requests and attempts under way get at a shutdown",
        "a_shutdown_waits_no_longer_than_it_may",
    ),
    (
        "how long an idempotency key is remembered",
        "an_idempotency_key_is_remembered_however_the_clock_is_set",
    ),
    (
        "an event in a batch",
        "every_bound_of_the_page_is_reached_and_answered_as_it_says",
    ),
    (
        "forms of more than 2 KiB of data that are made for attempts at once",
        "each_has_its_own_and_all_have_no_more_than_there_are",
    ),
    (
        "their payload",
        "when_too_much_waits_publishers_are_told_to_come_back",
    ),
    (
        "an event that comes by `postrider.publish()`",
        "an_event_comes_with_the_transaction_that_it_tells_of",
    ),
    (
        "deliveries that one transaction makes, beside those of one event",
        "a_batch_larger_than_a_transaction_is_answered_by_kind",
    ),
    (
        "names of event types that are compared, and steps of content filters, to see who gets an event",
        "looking_for_who_gets_an_event_takes_room_in_a_transaction",
    ),
    (
        "deliveries of one event that one transaction makes",
        "what_a_process_left_begun_is_gone_at_the_next_start",
    ),
    (
        "steps of patterns over texts",
        "a_pattern_costs_its_size_times_the_text",
    ),
    (
        "quick checks (up to 50,000 checks and 1,000,000 steps) at once",
        "all_together_have_so_many_turns",
    ),
    (
        "slow checks, and schemas that are being put, at once",
        "all_together_have_so_many_turns",
    ),
    (
        "mistakes that a refusal tells",
        "a_refusal_tells_so_many_mistakes_and_of_what_is_slow_one",
    ),
    (
        "schemas of event types that are compiled at once",
        "all_together_have_so_many_turns",
    ),
    (
        "event types with their compiled schemas in memory",
        "what_is_held_weighs_no_more_than_all_may",
    ),
    (
        "names that are looked up at once while they are registered",
        "each_has_its_own_and_all_have_no_more_than_there_are",
    ),
    (
        "values of one event that all filters together look at",
        "filters_that_would_look_too_long_let_the_event_through",
    ),
    (
        "endpoints of an API key",
        "of_changes_at_once_that_give_a_key_its_webhook_one_shows_the_secret",
    ),
    (
        "secrets that are valid together",
        "secrets_that_are_rotated_at_once_are_no_more_than_an_endpoint_may_have",
    ),
    (
        "keys, tenants, applications and whom events can be addressed to, in memory",
        "what_is_held_weighs_no_more_than_all_may",
    ),
    (
        "endpoints ready for sending in memory",
        "what_is_held_weighs_no_more_than_all_may",
    ),
    (
        "tenants whose endpoints the writer has in memory",
        "one_more_than_there_is_room_for_drives_out_a_part",
    ),
    (
        "changes of one application, event type or tenant at once",
        "however_many_change_it_at_once_nobody_is_refused",
    ),
    (
        "keys that are looked up in the store at once",
        "each_has_its_own_and_all_have_no_more_than_there_are",
    ),
    (
        "sessions, and users by their name, that are looked up in the store at once",
        "each_has_its_own_and_all_have_no_more_than_there_are",
    ),
    (
        "how long a link for choosing a password opens",
        "who_came_in_is_out_after_their_time_and_links_open_nothing_any_more",
    ),
    ("a password", "what_would_be_guessed_is_refused"),
    (
        "requests that a catcher keeps",
        "a_catcher_keeps_the_newest_and_one_tenant_leaves_room",
    ),
    (
        "what all catchers keep",
        "a_catcher_keeps_the_newest_and_one_tenant_leaves_room",
    ),
    (
        "requests under way",
        "a_tenant_with_many_hanging_endpoints_leaves_slots_to_others",
    ),
    (
        "requests under way to one endpoint",
        "a_far_receiver_gets_as_many_as_its_distance_needs",
    ),
    (
        "waiting deliveries in memory (payload and 512 bytes each)",
        "what_a_lane_may_hold_when_memory_is_full_is_little_in_bytes_too",
    ),
    (
        "deliveries that a lane may hold however full memory is",
        "what_a_lane_may_hold_when_memory_is_full_is_little_in_bytes_too",
    ),
    (
        "deliveries of a lane in memory",
        "lanes_whose_receivers_are_gone_hold_little",
    ),
    (
        "how far ahead a delivery is due that is kept in memory",
        "a_hundred_lanes_with_work_have_a_few_of_their_pages_read_at_once",
    ),
    (
        "such pages that are read at once",
        "a_hundred_lanes_with_work_have_a_few_of_their_pages_read_at_once",
    ),
    (
        "endpoints that are read for their lanes at once, and tenants for requests",
        "what_is_asked_for_meanwhile_is_read_together_and_each_gets_its_own",
    ),
    (
        "lanes without work that are remembered",
        "a_rate_holds_though_there_are_too_many_lanes_to_keep",
    ),
    (
        "deliveries in a second",
        "no_second_has_more_than_the_limit_not_even_the_one_after_a_pause",
    ),
    (
        "failures in a row that open the breaker",
        "it_opens_probes_and_closes",
    ),
    (
        "a pause that a receiver asks for, where the profile heeds it (`classify.retry_after`)",
        "a_pause_without_end_is_as_long_as_the_profile_heeds",
    ),
    (
        "steps of a schedule",
        "a_schedule_has_so_many_steps_and_no_more",
    ),
    (
        "events of the outbox that are taken at once",
        "tenants_whose_events_cannot_be_taken_leave_turns_to_the_others",
    ),
    (
        "time until a log of SQLite's has nothing more of what was deleted",
        "a_deleted_tenant_is_gone_at_once_and_then_all_that_it_had",
    ),
    (
        "records of attempts that wait for the store",
        "records_beyond_what_may_wait_are_waited_for",
    ),
    (
        "pending deliveries of a closed endpoint that one transaction ends",
        "a_closed_endpoints_pending_deliveries_are_finished_in_pages",
    ),
    (
        "pause of a delivery that this server cannot send (no port, no file descriptor, a secret that does not open)",
        "a_lane_that_this_server_cannot_send_for_waits_and_takes_no_more",
    ),
    (
        "time of an attempt, to the answer's headers",
        "a_receiver_that_hangs_or_is_slow_runs_into_the_deadline",
    ),
    (
        "of it, time to connect",
        "one_that_begins_no_handshake_has_the_time_to_connect",
    ),
    (
        "headers of an answer over HTTP/1.1",
        "broken_answers_are_classified",
    ),
    (
        "headers of an answer over HTTP/2",
        "more_headers_than_are_read_are_no_answer",
    ),
    (
        "an answer's body that is read",
        "of_a_body_no_more_is_read_than_its_bytes_and_its_time",
    ),
    (
        "of it, what is kept with the attempt",
        "no_more_headers_are_kept_than_have_room",
    ),
    (
        "redirects that are followed",
        "statuses_are_reported_and_redirects_not_followed",
    ),
    (
        "repetitions inside an attempt because the receiver refused to process it (HTTP/2)",
        "one_that_refuses_to_process_anything_is_asked_four_times",
    ),
    (
        "repetitions because a kept connection closed before an answer (HTTP/1.1)",
        "a_kept_connection_that_is_closed_under_a_request_is_no_failure",
    ),
    (
        "an answer of the proxy",
        "a_proxy_that_never_ends_its_answer_is_not_listened_to",
    ),
    (
        "how long one is kept",
        "a_connection_is_kept_no_longer_than_its_server_says",
    ),
    (
        "time for a connection to be ready again after an answer",
        "a_receiver_that_reads_nothing_does_not_keep_its_connection",
    ),
    (
        "what a connection that nobody uses any more has to say",
        "a_receiver_that_reads_nothing_does_not_keep_its_connection",
    ),
    (
        "requests at once on one HTTP/2 connection",
        "a_full_http2_connection_is_not_given_out",
    ),
    (
        "file descriptors",
        "callers_and_receivers_each_have_their_share",
    ),
    (
        "writers",
        "changes_stand_before_a_batch_by_twos_however_many_there_are",
    ),
    (
        "how long events, deliveries with their attempts, notices and replays are kept when they have ended",
        "what_ended_ninety_days_ago_is_forgotten_and_what_waits_is_kept",
    ),
    (
        "how much longer notices are kept that somebody is to be told of",
        "notices_tasks_and_the_audit_log_go_by_their_age",
    ),
    (
        "a value in an entry of the audit log",
        "what_is_too_long_for_the_log_is_told_by_its_length_and_digest",
    ),
    (
        "how long the audit log is kept",
        "what_ended_ninety_days_ago_is_forgotten_and_what_waits_is_kept",
    ),
    (
        "all that is stored",
        "of_more_than_may_be_stored_the_oldest_goes_early",
    ),
    (
        "rows that a round of forgetting looks at, and that it deletes, in one go",
        "what_is_old_is_forgotten_in_small_pieces_however_many_one_event_went_to",
    ),
    (
        "mails",
        "failures_are_gathered_and_mails_have_their_time_between",
    ),
    (
        "time in which first failures are gathered",
        "failures_are_gathered_and_mails_have_their_time_between",
    ),
    (
        "mails",
        "what_fails_beyond_the_mails_of_a_day_is_in_the_first_one_of_the_next",
    ),
    (
        "questions whether an address wants mail",
        "a_tenant_asks_so_many_in_a_day_and_the_next_ones_on_the_next",
    ),
    ("the same", "nobody_is_asked_more_often_than_once_an_hour"),
    (
        "addresses whose last question is known",
        "no_more_addresses_are_asked_in_an_hour_than_are_remembered",
    ),
    (
        "mails for recipients whom the mail server put off",
        "of_too_many_mails_that_were_put_off_the_oldest_is_given_up",
    ),
    (
        "tries for such a recipient",
        "of_too_many_mails_that_were_put_off_the_oldest_is_given_up",
    ),
    (
        "people who are in, and links that were not used",
        "of_too_many_sessions_the_oldest_ends",
    ),
    (
        "a visit with a key; a link to the console and what it opened",
        "who_came_in_is_out_after_their_time_and_links_open_nothing_any_more",
    ),
    (
        "a request that is verified",
        "a_page_stays_small_whatever_a_receiver_answers",
    ),
    (
        "event types on a page, and bytes of an example on it",
        "of_many_types_with_long_examples_every_one_is_found_on_a_small_page",
    ),
    (
        "rows of a list on a page",
        "all_that_a_list_holds_is_sent_again",
    ),
    (
        "bytes of a body on a page",
        "a_page_stays_small_whatever_a_receiver_answers",
    ),
    (
        "attempts on the page of a delivery",
        "a_delivery_shows_its_last_attempts_and_all_of_them_in_pages",
    ),
    (
        "of them told one by one",
        "a_mail_tells_so_many_one_by_one_and_how_many_more_there_are",
    ),
    (
        "time for one of several addresses",
        "each_of_several_addresses_has_its_share_of_the_time",
    ),
];

/// Those that no test reaches, and why.
pub(super) const UNREACHED: &[(&str, &str)] = &[
    (
        "requests that a node has passed on to the one that leads",
        "it would take thousands of requests that hang",
    ),
    (
        "keys whose cell a door remembers",
        "it is the cache's own bound",
    ),
    (
        "receivers that a follower could not reach, which the leader tries",
        "it would take ten thousand receivers and a day and a half",
    ),
    (
        "attempts that a node makes for the one that leads",
        "it would take as many attempts as a machine has descriptors for",
    ),
    (
        "connections of those who collect metrics at `metrics.listen`",
        "it is the bound of the listener, which is tested with others",
    ),
    ("connections that wait to be accepted", "it is the system's"),
    (
        "an answer's bytes that the system holds",
        "it is the system's",
    ),
    (
        "pages that a search of send-outs by type looks at",
        "it would take five thousand send-outs for one page",
    ),
    (
        "counts (statistics, an endpoint's counts) at once",
        "its turns are tested, and its number is not",
    ),
    ("writes that `/ready` makes", "nobody notices but the store"),
    (
        "spans that wait for a collector",
        "it is the collector's library's own bound",
    ),
    (
        "nonces that were used, in memory",
        "it is the cache's own bound; that the store is asked is tested",
    ),
    (
        "how long one stays that was refused",
        "it would take a month by the database's clock",
    ),
    (
        "writes in one batch of the journal",
        "which writes are taken is tested with the number as an argument",
    ),
    (
        "what Svix's API keeps of an event type: versions of its schema, groups, flags",
        "it is one comparison",
    ),
    (
        "calls of `explain` at once",
        "its turns are tested, and its number is not",
    ),
    (
        "tenants whose endpoints are read before a batch is written",
        "nobody notices but the store",
    ),
    (
        "attempts that are begun, and neither answered nor 2 ms old",
        "that tenants take turns in it is tested with a smaller number",
    ),
    (
        "a page that a lane reads",
        "nobody notices but the store; what a lane holds is tested",
    ),
    (
        "deliveries that have expired and are being recorded",
        "nobody notices but the store",
    ),
    (
        "events that a catch-up looks at at once",
        "nobody notices but the store",
    ),
    (
        "replays that run at once",
        "its turns are tested, and its number is not",
    ),
    (
        "tenants that rest because theirs cannot be taken",
        "it would take a thousand tenants whose events cannot be taken, within a second",
    ),
    (
        "rows of a kind that one transaction of a deletion erases",
        "that a deletion goes on piece by piece is tested, and the number is not",
    ),
    ("rest behind each of those", "nobody notices but the store"),
    (
        "deleted endpoints that a round of retention asks for their last deliveries at once",
        "that it goes on piece by piece is tested, and the number is not",
    ),
    (
        "deletions that end their endpoints at once",
        "its turns are tested, and its number is not",
    ),
    (
        "deletions that erase at once",
        "its turns are tested, and its number is not",
    ),
    ("tries of one step of a replay", "it would take an hour"),
    (
        "time to connect to `egress.proxy`",
        "it takes a network that loses what is sent",
    ),
    (
        "idle connections to receivers",
        "it would take hundreds of connections to one receiver, all at once",
    ),
    (
        "how old a connection to a receiver gets",
        "it would take five minutes",
    ),
    (
        "time to find a name's addresses",
        "it takes name servers that say nothing, for the whole machine",
    ),
    (
        "connections to a PostgreSQL database",
        "it is the length of a list of readers",
    ),
    (
        "time for one to be made",
        "it takes a network that loses what is sent",
    ),
    ("time without a sign of it", "it is the system's"),
    (
        "rows, and bytes of them, that are gathered for one statement to it",
        "nobody notices but the database",
    ),
    (
        "connections for what is found by its key, and for lanes",
        "it is the length of a list of readers",
    ),
    (
        "connections for lists",
        "it is the length of a list of readers",
    ),
    (
        "long lists, and attempts, that one account has made at once",
        "its turns are tested, and its number is not",
    ),
    (
        "connections for counts",
        "it is the length of a list of readers",
    ),
    ("pages in memory", "it is the database's"),
    (
        "write-ahead log before it is copied into the database",
        "what is copied, and when, is tested with smaller numbers",
    ),
    (
        "old idempotency keys and nonces that one transaction deletes",
        "nobody notices but the store",
    ),
    (
        "rows that are entered into a segment at once",
        "what is entered is tested with smaller numbers",
    ),
    (
        "notices in one mail",
        "it would take five thousand failures",
    ),
    ("time for one mail", "it would take thirty seconds"),
    (
        "operational webhooks that are read at once",
        "that none is left out is tested, and the number is not",
    ),
];
