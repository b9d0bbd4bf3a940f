//! Bans, reports and the audit log.

use control::store::moderation::{AuditEntry, Ban, Report, ReportReason, ReportStatus, Reviewed};
use control::store::stream::{PageEnd, StreamId};
use control::store::{SharedStore, StoreError};

use super::fixture::*;

pub async fn a_ban_is_kept_replaced_and_lifted(store: SharedStore) {
    let bad = user("bad");
    assert_eq!(store.ban(&bad).await.unwrap(), None);
    assert!(!store.lift_ban(&bad, at(1)).await.unwrap());

    let first = ban("bad", at(1));
    store.set_ban(&first).await.unwrap();
    assert_eq!(store.ban(&bad).await.unwrap(), Some(first));
    let second = Ban { reason: "again: 'x'".to_owned(), until: Some(at(900)), by: user("other"), ..ban("bad", at(5)) };
    store.set_ban(&second).await.unwrap();
    assert_eq!(store.ban(&bad).await.unwrap(), Some(second.clone()));

    assert!(store.lift_ban(&bad, at(7)).await.unwrap());
    assert!(!store.lift_ban(&bad, at(8)).await.unwrap());
    let lifted = Ban { lifted_at: Some(at(7)), ..second };
    assert_eq!(store.ban(&bad).await.unwrap(), Some(lifted));
    let third = ban("bad", at(10));
    store.set_ban(&third).await.unwrap();
    assert_eq!(store.ban(&bad).await.unwrap(), Some(third), "a new ban holds again");
}

pub async fn bans_that_changed_come_oldest_change_first(store: SharedStore) {
    for (id, when) in [("c", 30), ("a", 10), ("b", 20), ("e", 20)] {
        store.set_ban(&ban(id, at(when))).await.unwrap();
    }
    store.lift_ban(&user("a"), at(40)).await.unwrap();
    let since = async |when, limit| -> Vec<String> {
        let bans = store.bans_changed_since(at(when), limit).await.unwrap();
        bans.iter().map(|ban| ban.user_id.to_string()).collect()
    };

    assert_eq!(since(0, 10).await, ["b", "e", "c", "a"]);
    assert_eq!(since(30, 10).await, ["c", "a"]);
    assert_eq!(since(20, 2).await, ["b", "e"]);
    assert_eq!(since(41, 10).await, [""; 0]);
}

pub async fn every_field_of_a_report_is_kept(store: SharedStore) {
    let stream = new_stream(&store).await;
    let plain = report(&stream, "a", at(1));
    let full = Report {
        reason: ReportReason::SelfHarm,
        details: Some("näher".to_owned()),
        message_id: Some("m-1".to_owned()),
        user_id: Some(user("6b0211223344556677889900")),
        ..report(&stream, "6b0211223344556677889901", at(2))
    };
    store.file_report(&plain).await.unwrap();
    store.file_report(&full).await.unwrap();

    assert_eq!(store.reports(None, None, None, 10).await.unwrap(), [full, plain]);
}

pub async fn a_reporter_has_one_open_report_for_a_target(store: SharedStore) {
    let stream = new_stream(&store).await;
    let first = report(&stream, "a", at(1));
    let of_message = Report { message_id: Some("m-1".to_owned()), ..report(&stream, "a", at(2)) };
    let of_user = Report { user_id: Some(user("m-1")), ..report(&stream, "a", at(3)) };
    for new in [&first, &of_message, &of_user] {
        assert_eq!(store.open_report(new).await.unwrap(), None);
        let filed = store.file_report(new).await.unwrap();
        assert_eq!((filed.id, filed.repeated, filed.reporters), (new.id.clone(), false, 1));
        let like = Report { id: "other".to_owned(), ..new.clone() };
        assert_eq!(store.open_report(&like).await.unwrap(), Some(new.id.clone()));
    }

    let again =
        store.file_report(&Report { reason: ReportReason::Nudity, ..report(&stream, "a", at(9)) }).await.unwrap();
    assert_eq!((again.id, again.repeated, again.reporters), (first.id.clone(), true, 1));
    let same_request = store.file_report(&first).await.unwrap();
    assert!(same_request.repeated);

    store.update_report(&first.id, ReportStatus::Resolved, None, &user("admin"), at(10)).await.unwrap();
    assert_eq!(store.open_report(&first).await.unwrap(), None);
    let anew = report(&stream, "a", at(11));
    let filed = store.file_report(&anew).await.unwrap();
    assert_eq!((filed.id, filed.repeated), (anew.id, false));
}

pub async fn distinct_reporters_of_a_stream_are_counted(store: SharedStore) {
    let (stream, other) = (new_stream(&store).await, new_stream(&store).await);
    store.file_report(&report(&other, "z", at(1))).await.unwrap();
    let mut counts = Vec::new();
    for by in ["a", "b", "a", "c"] {
        counts.push(store.file_report(&report(&stream, by, at(1))).await.unwrap().reporters);
    }
    assert_eq!(counts, [1, 2, 2, 3]);

    let first = store.reports(None, Some(stream.id), None, 10).await.unwrap().pop().unwrap();
    store.update_report(&first.id, ReportStatus::Resolved, None, &user("admin"), at(2)).await.unwrap();
    let of_message = Report { message_id: Some("m".to_owned()), ..report(&stream, "c", at(3)) };
    assert_eq!(store.file_report(&of_message).await.unwrap().reporters, 3, "resolved ones count");
}

pub async fn of_concurrent_reports_for_a_target_one_is_new(store: SharedStore) {
    let stream = new_stream(&store).await;
    let reports = (0..6).map(|_| {
        let (store, report) = (store.clone(), report(&stream, "a", at(1)));
        async move { store.file_report(&report).await.unwrap() }
    });
    let filed = together(reports).await;

    assert_eq!(filed.iter().filter(|filed| !filed.repeated).count(), 1);
    assert!(filed.iter().all(|one| one.id == filed[0].id && one.reporters == 1));
}

pub async fn a_report_is_resolved_and_opened_again(store: SharedStore) {
    let stream = new_stream(&store).await;
    let open = report(&stream, "a", at(1));
    store.file_report(&open).await.unwrap();

    let resolved =
        store.update_report(&open.id, ReportStatus::Resolved, Some("spoke to them"), &user("mod"), at(5)).await;
    let expected = Report {
        status: ReportStatus::Resolved,
        note: Some("spoke to them".to_owned()),
        resolved_by: Some(user("mod")),
        updated_at: at(5),
        ..open.clone()
    };
    assert_eq!(resolved.unwrap(), Reviewed { report: expected.clone(), changed: true });
    let again = store.update_report(&open.id, ReportStatus::Open, None, &user("mod"), at(6)).await.unwrap();
    let expected = Report { note: expected.note, updated_at: at(6), ..open.clone() };
    assert_eq!(again, Reviewed { report: expected.clone(), changed: true });
    // At the same time, so that the time shows nothing.
    let repeated = store.update_report(&open.id, ReportStatus::Open, None, &user("mod"), at(6)).await.unwrap();
    assert_eq!(repeated, Reviewed { report: expected.clone(), changed: false });
    assert_eq!(store.reports(None, None, None, 10).await.unwrap(), [expected]);

    for id in ["nope", "", &object_id()] {
        let unknown = store.update_report(id, ReportStatus::Open, None, &user("mod"), at(7)).await;
        assert!(matches!(unknown, Err(StoreError::NotFound)), "{unknown:?}");
    }
}

pub async fn a_report_stays_resolved_while_another_is_open_for_its_target(store: SharedStore) {
    let stream = new_stream(&store).await;
    let first = report(&stream, "a", at(1));
    store.file_report(&first).await.unwrap();
    let resolved = store.update_report(&first.id, ReportStatus::Resolved, None, &user("mod"), at(5)).await.unwrap();
    store.file_report(&report(&stream, "a", at(6))).await.unwrap();

    let again = store.update_report(&first.id, ReportStatus::Open, Some("note"), &user("mod"), at(7)).await.unwrap();

    assert_eq!(again, Reviewed { changed: false, ..resolved });
}

pub async fn reports_are_listed_newest_first_by_pages(store: SharedStore) {
    let (stream, other) = (new_stream(&store).await, new_stream(&store).await);
    let mut all = Vec::new();
    for n in 0..12 {
        let on = if n % 3 == 0 { &other } else { &stream };
        let new = report(on, &format!("u{n}"), at(n / 4));
        store.file_report(&new).await.unwrap();
        if n % 2 == 0 {
            store.update_report(&new.id, ReportStatus::Resolved, None, &user("mod"), at(50)).await.unwrap();
        }
        all.push((new.created_at, new.id.clone(), n % 2 == 0, on.id));
    }
    all.sort();
    all.reverse();
    for (status, on) in [
        (None, None),
        (Some(ReportStatus::Open), None),
        (Some(ReportStatus::Resolved), Some(stream.id)),
        (None, Some(other.id)),
        (None, Some(StreamId::generate())),
    ] {
        let matching = all.iter().filter(|(_, _, resolved, of)| {
            status.is_none_or(|status| (status == ReportStatus::Resolved) == *resolved) && on.is_none_or(|on| on == *of)
        });
        let expected: Vec<_> = matching.map(|(_, id, _, _)| id.clone()).collect();
        let mut found: Vec<Report> = Vec::new();
        loop {
            let after = found.last().map(|last| PageEnd { key: last.created_at.millis(), id: last.id.clone() });
            let page = store.reports(status, on, after.as_ref(), 5).await.unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }

        assert_eq!(found.iter().map(|report| report.id.clone()).collect::<Vec<_>>(), expected, "{status:?}");
    }
}

fn entry(on: Option<StreamId>, when: i64) -> AuditEntry {
    AuditEntry { stream_id: on, ..audit_entry(at(when)) }
}

pub async fn every_field_of_an_audit_entry_is_kept(store: SharedStore) {
    let stream = new_stream(&store).await;
    let plain = entry(None, 1);
    let full = AuditEntry {
        target: Some("6b0211223344556677889900".to_owned()),
        details: serde_json::json!({"reason": "‚x‘", "list": [1, 2.5, null, {"a.b": true, "$c": "d"}]}),
        request_id: Some("01J".to_owned()),
        ..entry(Some(stream.id), 2)
    };
    store.append_audit(&plain).await.unwrap();
    store.append_audit(&full).await.unwrap();

    assert_eq!(store.audit(None, None, 10).await.unwrap(), [full.clone(), plain]);
    assert_eq!(store.audit(Some(stream.id), None, 10).await.unwrap(), [full]);
}

pub async fn an_audit_entry_is_never_changed(store: SharedStore) {
    let first = entry(None, 1);
    store.append_audit(&first).await.unwrap();

    store.append_audit(&AuditEntry { action: "other".to_owned(), ..first.clone() }).await.unwrap();

    assert_eq!(store.audit(None, None, 10).await.unwrap(), [first]);
}

pub async fn the_audit_log_is_read_newest_first_by_pages(store: SharedStore) {
    let stream = new_stream(&store).await;
    let mut all = Vec::new();
    for n in 0..11 {
        let new = entry((n % 2 == 0).then_some(stream.id), n / 4);
        store.append_audit(&new).await.unwrap();
        all.push(new);
    }
    all.sort_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
    for on in [None, Some(stream.id)] {
        let mut found: Vec<AuditEntry> = Vec::new();
        loop {
            let after = found.last().map(|last| PageEnd { key: last.at.millis(), id: last.id.clone() });
            let page = store.audit(on, after.as_ref(), 4).await.unwrap();
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        let expected: Vec<_> = all.iter().filter(|one| on.is_none() || one.stream_id == on).cloned().collect();

        assert_eq!(found, expected);
    }
}
