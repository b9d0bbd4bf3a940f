//! The rules that every store keeps, each run against every store.
//!
//! A rule is a function of a fresh store, and its name says what must hold.

#[path = "support/application.rs"]
mod application;
#[path = "support/mongo.rs"]
#[expect(dead_code, reason = "outages are tested in store_mongo.rs")]
mod mongo;
#[path = "support/ports.rs"]
mod ports;

mod store {
    mod application;
    pub mod chat;
    pub mod embedded;
    pub mod fixture;
    pub mod lists;
    pub mod migrate;
    pub mod moderation;
    pub mod place;
    pub mod presence;
    pub mod requests;
    pub mod streams;
    pub mod transfer;
}

/// Makes a test of each rule, in the store that `place` has by that name.
macro_rules! rules {
    ($place:ident: $($module:ident { $($rule:ident)* })*) => {
        mod $place {
            $(mod $module {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $rule() {
                        let place = crate::store::place::$place().await;
                        crate::store::$module::$rule(place.store.clone()).await;
                    }
                )*
            })*
        }
    };
}

macro_rules! every_rule {
    ($place:ident) => {
        rules! { $place:
            streams {
                every_field_of_a_stream_is_kept
                what_is_not_there_is_not_found
                creating_a_stream_again_changes_nothing
                of_concurrent_starts_of_one_owner_one_wins
                a_room_name_is_given_once
                streams_without_a_room_do_not_compete_for_one
                an_owner_may_start_again_after_the_end
                a_transition_sets_what_belongs_to_the_state
                a_cancelled_stream_has_no_end
                a_transition_happens_from_the_named_states_only
                a_transition_happens_once
                a_final_state_is_never_left
                of_concurrent_ends_one_wins_and_its_reason_stays
                an_end_of_another_room_does_nothing
                an_end_of_any_room_holds_while_none_is_noted
                the_room_of_a_live_stream_is_noted
                a_scheduled_stream_starts
                of_concurrent_starts_of_a_scheduled_stream_one_wins
                a_scheduled_stream_competes_with_a_new_one
                a_scheduled_stream_that_cannot_start_stays_as_it_is
                an_edit_changes_what_it_names
                an_edit_happens_in_the_named_states_only
                the_last_ended_stream_is_the_one_that_began
                rev_rises_with_every_change_and_only_then
                concurrent_changes_are_all_there
                the_time_of_the_last_change_never_falls
                a_block_is_entered_once_and_sorted
                an_owners_own_list_is_kept_apart_from_others
                the_store_answers
            }
            lists {
                pages_give_all_in_order_also_with_equal_keys
                no_row_is_given_twice_while_rows_come_and_go
                streams_without_the_time_that_sorts_are_left_out
                filters_hold_together
                a_cursor_that_means_nothing_does_no_harm
                changes_since_a_time_come_oldest_first
                a_change_of_presence_is_seen_by_who_asks_for_changes
                scheduled_streams_are_counted_until_they_start_or_are_cancelled
            }
            presence {
                a_session_is_kept_with_its_times
                presence_of_an_unknown_stream_is_not_found
                a_join_and_a_leave_count_once
                a_leave_before_its_join_ends_as_absent
                a_user_on_two_devices_is_one_viewer
                sessions_that_do_not_count_are_kept_and_not_counted
                one_users_sessions_of_both_kinds_do_not_disturb_each_other
                the_peak_is_the_most_at_one_time_and_unique_who_ever_came
                numbers_of_an_ended_stream_stay_and_its_records_are_written
                streams_are_counted_apart
                events_in_any_order_agree_with_a_naive_count_at_every_step
                concurrent_events_in_any_order_end_at_the_true_numbers
                a_thousand_events_end_at_the_true_number
            }
            chat {
                every_field_of_a_message_is_kept
                numbers_are_reserved_from_one_upwards
                reserved_numbers_are_above_those_that_are_known
                concurrent_reservations_never_overlap
                messages_are_read_in_rising_order
                a_message_is_kept_and_counted_once
                messages_of_several_streams_are_stored_together
                a_hidden_message_is_kept_but_not_read
                all_messages_of_a_user_are_hidden_at_once
                only_the_newest_messages_are_kept_and_the_totals_stay
                messages_of_streams_that_ended_before_the_retention_are_removed
                reactions_add_up
                concurrent_reactions_and_messages_are_all_counted
                settings_mutes_and_pin_are_the_streams_own
            }
            moderation {
                a_ban_is_kept_replaced_and_lifted
                bans_that_changed_come_oldest_change_first
                every_field_of_a_report_is_kept
                a_reporter_has_one_open_report_for_a_target
                distinct_reporters_of_a_stream_are_counted
                of_concurrent_reports_for_a_target_one_is_new
                a_report_is_resolved_and_opened_again
                a_report_stays_resolved_while_another_is_open_for_its_target
                reports_are_listed_newest_first_by_pages
                every_field_of_an_audit_entry_is_kept
                an_audit_entry_is_never_changed
                the_audit_log_is_read_newest_first_by_pages
            }
            requests {
                the_first_request_with_a_key_is_carried_out
                a_key_is_free_again_after_a_day
                a_claim_that_was_never_finished_is_given_anew
                a_failed_request_gives_its_key_back
                of_concurrent_requests_with_a_key_one_is_carried_out
                a_limit_slides
                a_limit_that_was_lowered_holds_at_once
                a_unit_of_a_clock_that_was_ahead_counts_for_nobody
                a_claim_of_a_clock_that_was_ahead_is_given_anew
                upkeep_removes_what_a_clock_that_was_ahead_noted
                a_unit_that_is_given_back_can_be_taken_again
                a_limit_is_exact_under_concurrency
                a_handled_webhook_is_known_for_a_day
                nodes_read_what_others_noted
                nodes_hear_what_each_other_one_said_last
                upkeep_removes_nothing_that_is_still_needed
                a_retention_beyond_all_time_does_no_harm
                a_room_is_leased_to_the_node_that_renews_it_and_each_change_raises_the_epoch
            }
            transfer {
                every_document_is_exported_once_whatever_the_page
                an_exported_stream_is_its_serialized_form
                importing_again_changes_nothing
                an_imported_document_replaces_the_one_that_is_there
                counting_goes_on_from_imported_documents
                what_is_no_document_of_a_collection_is_refused
            }
            migrate {
                everything_arrives_in_both_directions
                a_migration_may_be_repeated
            }
        }
    };
}

every_rule!(embedded);
every_rule!(mongodb);
