//! The rules of the stream API over HTTP (sections 1 to 4, 7, 9 to 11, 14 and 15), each against every store.
//!
//! A rule is a function of a fresh store; it serves the API on a port of its own and calls it as clients do. Its name
//! says what must hold; its documentation begins with `[S]` where the product's description asks for it.

#[path = "support/manual_clock.rs"]
mod manual_clock;
#[path = "support/mongo.rs"]
#[expect(dead_code, reason = "outages are tested elsewhere")]
mod mongo;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/stores.rs"]
mod stores;
#[path = "support/switched_store.rs"]
mod switched_store;

/// Where a rule finds its store.
mod place {
    /// For rules that have nothing to do with one.
    pub use crate::stores::embedded as in_memory;
    pub use crate::stores::{embedded, mongodb};
}

mod http {
    pub mod analytics;
    pub mod callers;
    pub mod conventions;
    pub mod description;
    pub mod feature;
    pub mod fields;
    pub mod moderation;
    pub mod nodes;
    pub mod outage;
    pub mod scheduled;
    pub mod streams;
    pub mod webhooks;
    pub mod world;
}

/// Makes a test of each rule, in the store that `place` has by that name.
macro_rules! rules {
    ($place:ident: $($module:ident { $($rule:ident)* })*) => {
        mod $place {
            $(mod $module {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $rule() {
                        let store = crate::place::$place().await;
                        crate::http::$module::$rule(store).await;
                    }
                )*
            })*
        }
    };
}

macro_rules! every_rule {
    ($place:ident) => {
        rules! { $place:
            conventions {
                answers_are_json_in_camel_case
                times_have_milliseconds_and_what_is_absent_is_left_out
                an_unknown_field_is_refused
                what_is_no_json_is_refused
                a_large_body_is_refused
                another_media_type_is_refused
                a_malformed_stream_id_is_not_found
                every_answer_has_a_request_id
                caches_keep_nothing_but_two_answers
                only_listed_origins_may_call_from_a_page
                an_origin_has_one_reading
                without_a_list_no_other_origin_may_call
                a_user_who_calls_too_often_is_told_to_wait
                users_and_addresses_have_buckets_of_their_own
                an_address_is_believed_of_a_trusted_proxy_only
                a_stream_is_reached_by_the_address_that_the_client_called
                a_refusal_is_problem_details
                unknown_addresses_and_methods_are_refused_in_the_same_form
                a_server_that_starts_or_stops_says_so
                a_store_that_is_away_for_half_a_minute_makes_the_server_unready
                a_media_worker_that_does_not_run_makes_the_server_unready
                a_media_worker_that_stands_still_makes_the_server_unready_meanwhile
                pages_follow_each_other
                bad_pages_are_refused
                a_slow_body_is_given_up
                a_connection_whose_body_was_not_read_says_that_it_ends
                a_repeated_start_with_a_key_answers_as_the_first
                answers_are_counted
            }
            callers {
                a_token_must_be_signed_and_whole
                a_user_whose_id_is_an_object_id_is_one_in_any_spelling
                a_refused_token_comes_with_the_reason
                a_token_without_a_signature_is_refused
                without_keys_of_the_identity_service_a_call_is_to_be_repeated
                refused_tokens_keep_nobody_else_behind_their_address_out
                a_media_token_is_no_user_token
                there_are_users_and_administrators
                a_ban_keeps_a_user_from_everything
                a_ban_is_checked
                in_development_anybody_gets_a_token
                public_routes_need_no_token
            }
            fields {
                a_title_has_at_most_120_characters
                a_title_is_cleaned
                there_are_at_most_10_tags
                tags_are_cleaned_and_merged
                a_cover_has_an_https_url
                each_wrong_field_is_named_once
                a_stranger_learns_nothing_of_the_rules
            }
            streams {
                a_start_says_how_to_publish
                a_stream_id_is_an_object_id
                the_token_of_a_start_may_publish
                a_start_needs_no_body
                a_host_header_that_names_no_host_is_refused
                a_second_start_does_as_it_is_told
                starts_are_limited
                a_start_without_the_media_server_is_refused
                only_the_owner_stops_a_stream
                a_second_stop_says_that_it_is_over
                live_streams_are_listed_newest_first
                the_list_is_filtered_and_sorted
                the_list_goes_by_viewers_if_asked_to
                a_list_that_did_not_change_is_not_sent_again
                a_blocked_user_does_not_see_the_stream_listed
                a_stream_does_not_tell_whom_it_blocks
                a_stream_is_read_by_anybody
                a_user_gets_a_token_to_watch
                the_token_of_a_viewer_may_not_publish
                a_blocked_user_may_not_watch
                what_is_over_is_not_watched
                a_full_stream_is_not_watched_by_others
                an_administrator_ends_any_stream
                the_owner_edits_what_is_shown
                null_clears_each_field
                a_user_lists_own_streams
            }
            webhooks {
                a_finished_room_ends_its_stream
                a_webhook_must_be_signed
                a_webhook_must_be_readable
                a_webhooks_token_is_looked_at_before_its_body
                forged_webhooks_are_limited
            }
            moderation {
                owner_and_administrators_block_users
                blocks_may_be_repeated
                blocks_are_possible_before_during_and_after
                owner_and_administrators_are_not_blocked
                administrators_are_recalled_from_the_log
                an_administrator_whom_nobody_knew_is_not_kept_out
                a_block_removes_the_user_from_the_room
                any_user_id_can_be_blocked
                the_own_list_holds_for_new_streams
                the_reasons_of_a_list_are_bounded
                the_acts_of_a_user_are_limited
                a_report_is_reviewed
                the_same_report_again_is_the_first_one
                reports_are_checked
                reports_of_a_user_are_limited
                a_repeated_report_is_answered_beyond_the_limit
                five_reporters_flag_a_stream
                every_decision_is_in_the_log
                the_reason_of_an_end_is_cleaned
                what_is_absent_is_left_out_of_the_log
                what_changes_nothing_is_not_in_the_log
                what_is_decided_holds_where_the_store_takes_nothing_and_is_stored_later
                administrators_list_streams_in_any_state
            }
            scheduled {
                a_stream_is_announced
                an_announced_stream_starts_half_an_hour_before
                public_announcements_are_listed_soonest_first
                announcements_are_checked
                a_user_announces_at_most_twenty
                a_user_announces_and_calls_off_at_most_forty_in_a_day
                an_announcement_is_called_off
                an_announcement_is_edited
                a_private_announcement_exists_for_nobody_else
                a_repeated_announcement_answers_as_the_first_when_its_time_is_near
            }
            analytics {
                figures_are_for_owner_and_administrators
                what_never_began_has_no_figures
            }
            nodes {
                the_limit_of_reports_holds_on_all_nodes
                the_limits_of_announcements_hold_on_all_nodes
                all_other_limits_are_each_nodes_own
            }
            outage {
                without_the_store_what_is_known_goes_on_and_what_has_to_be_written_waits
            }
            feature {
                without_the_feature_live_routes_are_not_there
                without_the_feature_streams_can_still_be_ended
            }
        }
    };
}

every_rule!(embedded);
every_rule!(mongodb);

// These do not depend on the store.
rules! { in_memory:
    description {
                every_route_is_described
                all_paths_begin_with_api
                the_description_is_whole
                the_page_needs_nothing_from_elsewhere
    }
}
