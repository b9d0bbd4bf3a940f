//! Streams from start to end, counted and reconciled, each rule against every store.
//!
//! A rule is a function of a fresh store, and its name says what must hold. The media server is a list of rooms that
//! the test fills (`door.rs`), and time passes as the test says (`world.rs`).

#[path = "support/manual_clock.rs"]
mod manual_clock;
#[path = "support/mongo.rs"]
#[expect(dead_code, reason = "tests of outages of MongoDB itself are elsewhere")]
mod mongo;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/stores.rs"]
mod stores;
#[path = "support/switched_store.rs"]
mod switched_store;

#[path = "streams/counting.rs"]
mod counting;
#[path = "streams/door.rs"]
mod door;
#[path = "streams/life.rs"]
mod life;
#[path = "streams/model.rs"]
mod model;
#[path = "streams/recovery.rs"]
mod recovery;
#[path = "streams/webhooks.rs"]
mod webhooks;
#[path = "streams/world.rs"]
mod world;

/// Makes a test of each rule, in the store of that name.
macro_rules! rules {
    ($store:ident: $($module:ident { $($rule:ident)* })*) => {
        mod $store {
            $(mod $module {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $rule() {
                        crate::$module::$rule(crate::stores::$store().await).await;
                    }
                )*
            })*
        }
    };
}

macro_rules! every_rule {
    ($($store:ident)*) => {
        $(rules! { $store:
            counting {
                a_join_that_is_told_twice_counts_once
                a_leave_before_its_join_leaves_nobody
                one_user_on_two_devices_is_one_viewer
                a_join_that_never_completed_is_no_viewer
                what_a_sender_says_no_time_of_happened_when_it_was_told
                only_people_who_watch_are_counted
                a_leave_that_got_lost_is_made_up_for
                a_leave_that_got_lost_is_made_up_for_after_a_clock_was_ahead
                a_join_that_got_lost_is_made_up_for
                a_session_whose_event_may_be_on_its_way_is_left_alone
                a_blocked_user_who_is_found_inside_is_put_out
                who_is_connecting_is_not_counted_yet
                viewers_beyond_the_places_are_put_out_of_a_room_elsewhere
                nobody_is_put_out_of_rooms_of_this_process_or_where_places_are_not_limited
                what_happens_in_rooms_of_this_process_is_counted
                the_end_of_an_older_room_does_nothing
                the_end_of_a_room_without_a_sid_has_the_room_looked_for
                the_start_of_a_room_changes_no_state
                a_late_start_of_an_older_room_does_not_displace_the_newer_one
                an_event_after_the_end_counts_nobody_and_reopens_nothing
                events_of_other_rooms_are_none_of_our_business
                a_thousand_events_in_any_order_end_at_the_true_number
                two_nodes_that_handle_the_same_event_count_it_once
                a_blocked_user_who_comes_in_is_put_out
                a_banned_user_who_comes_in_is_put_out
                events_that_were_handled_make_room_for_others
                events_beyond_those_that_may_wait_are_turned_away
            }
            life {
                a_start_makes_a_stream_a_room_and_a_publishers_token
                who_is_live_resumes_is_rejected_or_replaces
                what_is_resumed_stays_as_it_was_and_costs_no_start
                a_name_that_is_taken_is_raised_by_a_millisecond_five_times
                of_two_starts_at_once_one_creates_and_one_resumes
                a_user_starts_five_streams_an_hour
                a_pause_follows_the_end_of_a_stream
                a_clock_that_was_ahead_keeps_nobody_from_starting
                a_stream_whose_clock_was_ahead_ends_by_time
                a_stream_that_is_replaced_asks_for_no_pause
                an_end_holds_where_the_store_takes_nothing_and_is_stored_later
                an_end_that_was_not_stored_is_by_the_same_call_again
                what_the_store_does_not_take_holds_on_one_node_and_as_long_as_its_process_runs
                a_replacement_that_failed_can_be_tried_again_at_once
                a_stream_that_never_began_asks_for_no_pause
                a_start_without_a_media_server_counts_for_nothing
                a_start_with_a_known_key_answers_as_the_first
                the_key_of_a_start_that_failed_can_be_used_again
                the_owners_own_list_is_copied_at_each_start
                a_banned_user_neither_starts_nor_watches_nor_goes_on
                a_ban_holds_until_its_time
                a_ban_that_another_node_wrote_refuses_a_start_before_it_is_known_here
                with_the_flag_off_nothing_starts_and_all_can_be_ended
                the_owners_first_track_makes_a_stream_live
                an_owner_who_is_back_within_the_window_is_live_again
                a_join_of_the_owner_that_is_told_again_brings_back_only_an_owner_who_is_there
                a_new_session_whose_join_comes_before_the_old_leave_never_shows
                an_owner_who_does_not_come_back_ends_the_stream_whoever_watches
                a_stream_has_a_longest_duration
                without_a_longest_duration_a_stream_goes_on
                stopping_twice_tells_of_the_first_end
                only_the_owner_stops_and_only_an_administrator_ends
                an_administrator_ends_a_stream_in_any_live_state
                an_end_holds_also_when_the_media_server_is_away
                a_viewers_token_lets_one_user_in_on_several_devices
                who_may_not_watch_is_told_why
                who_watches_a_stream_of_another_node_finds_it_known_here
                a_block_puts_all_sessions_of_the_user_out
                a_block_that_the_media_server_did_not_take_is_tried_again_at_once
                a_planned_stream_starts_from_half_an_hour_before
                a_planned_stream_is_shown_as_planned_and_then_as_its_start_says
                blocks_of_a_planned_stream_and_of_the_owners_list_hold_together
                a_planned_stream_starts_until_two_hours_after
                a_planned_stream_is_cancelled_by_its_owner_or_by_time
                a_user_plans_at_most_twenty_streams
                what_is_shown_is_changed_by_the_owner_until_the_end
            }
            model {
                random_steps_end_as_the_rules_say
            }
            recovery {
                the_next_process_takes_over_and_corrects_what_it_missed
                ends_that_were_missed_are_made_up_for_before_anybody_is_served
                bans_of_an_earlier_process_hold
                a_room_that_stays_missing_ends_its_stream_when_the_owner_has_had_the_time_to_come_back
                an_owner_who_resumes_after_a_restart_of_the_media_server_is_live_again
                while_the_media_server_is_away_a_stream_waits_for_its_owner
                a_media_server_that_stays_away_ends_its_streams
                an_owner_whose_events_got_lost_is_not_timed_out
                an_owner_who_is_there_is_live_by_comparison_only_if_something_is_published
                an_owner_who_came_and_sent_nothing_never_began
                an_owner_whose_leave_got_lost_is_waited_for
                rooms_of_streams_that_are_over_are_deleted_and_those_of_others_are_not
                planned_streams_that_nobody_started_are_cancelled
                without_the_store_streams_go_on_and_all_is_made_up_for
                a_room_of_another_process_is_not_missed_until_that_process_is_gone
                a_process_without_others_misses_the_rooms_of_the_one_before_it_at_once
                a_room_elsewhere_that_is_gone_is_missed_whoever_saw_it_last
                a_room_of_another_process_is_not_missed_though_its_clock_lags
                what_a_node_changed_whose_clock_was_ahead_hides_no_later_change
                what_one_node_changes_another_sees
            }
        })*
    };
}

every_rule! { embedded mongodb }

/// What happens in this process alone, whatever the store is.
mod in_process {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_room_that_does_not_answer_keeps_no_other_one_waiting() {
        crate::counting::a_room_that_does_not_answer_keeps_no_other_one_waiting(crate::stores::embedded().await).await;
    }
}
