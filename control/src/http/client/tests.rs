use axum::http::Request;

use super::*;

fn parts(peer: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    parts.extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 4000)));
    parts
}

fn proxies(texts: &[&str]) -> Proxies {
    Proxies::new(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn by_default() -> Proxies {
    Proxies::new(&crate::config::Config::default().http.trusted_proxies).unwrap()
}

/// Address and URL of a call through a proxy on this machine.
fn seen(headers: &[(&str, &str)]) -> (String, String) {
    let client = by_default().client(&parts("127.0.0.1", headers));
    assert!(!client.is_local, "{headers:?}");
    (client.address.to_string(), client.called.unwrap_or_default())
}

#[test]
fn a_stranger_cannot_say_where_it_comes_from() {
    let headers = [
        ("x-forwarded-for", "198.51.100.1"),
        ("forwarded", "for=198.51.100.1;proto=https;host=evil.example"),
        ("x-real-ip", "198.51.100.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-port", "443"),
        ("host", "live.example"),
    ];
    for peer in ["203.0.113.5", "2001:db8::5"] {
        let client = by_default().client(&parts(peer, &headers));

        assert_eq!(client.address.to_string(), peer);
        assert_eq!(client.called.as_deref(), Some("http://live.example"));
        assert!(!client.is_local);
    }
}

#[test]
fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
    let proxies = proxies(&["10.0.0.0/8", "fd00::/8"]);
    let seen = |list: &str| proxies.client(&parts("10.1.2.3", &[("x-forwarded-for", list)])).address.to_string();

    assert_eq!(seen("198.51.100.1, 203.0.113.5, 10.9.9.9"), "203.0.113.5");
    assert_eq!(seen("198.51.100.1:8080"), "198.51.100.1");
    assert_eq!(seen("2001:db8::7, fd00::1"), "2001:db8::7");
    assert_eq!(seen("[2001:db8::7]:443"), "2001:db8::7");
    assert_eq!(seen("forged, unknown"), "10.1.2.3");
    assert_eq!(seen("198.51.100.1, unknown, 10.0.0.9"), "10.0.0.9");
    assert_eq!(seen(""), "10.1.2.3");
}

#[test]
fn several_lines_are_one_list() {
    let lines = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.5")];
    assert_eq!(proxies(&["10.0.0.1"]).client(&parts("10.0.0.1", &lines)).address.to_string(), "203.0.113.5");

    let lines = [("forwarded", "for=198.51.100.1"), ("forwarded", "for=203.0.113.5")];
    assert_eq!(proxies(&["10.0.0.1"]).client(&parts("10.0.0.1", &lines)).address.to_string(), "203.0.113.5");
}

#[test]
fn both_forms_of_the_headers_say_the_same() {
    let expected = ("203.0.113.5".to_owned(), "https://live.example:8443".to_owned());
    for headers in [
        &[
            ("x-forwarded-for", "203.0.113.5"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "live.example:8443"),
        ][..],
        &[("forwarded", "for=203.0.113.5;proto=https;host=\"live.example:8443\"")],
        &[("forwarded", "For=\"203.0.113.5:1234\"; Proto=HTTPS; Host=Live.example:8443;by=_us")],
        &[
            ("x-forwarded-for", "203.0.113.5"),
            ("x-forwarded-proto", "wss"),
            ("x-forwarded-port", "8443"),
            ("host", "live.example"),
        ],
        &[("x-real-ip", "203.0.113.5"), ("x-forwarded-proto", "https"), ("host", "live.example:8443")],
        &[
            ("x-forwarded-for", "203.0.113.5"),
            ("forwarded", "for=203.0.113.5;proto=https"),
            ("x-forwarded-proto", "https"),
            ("host", "live.example:8443"),
        ],
        // What only one of the two says counts, and before what the proxy was called.
        &[
            ("x-forwarded-for", "203.0.113.5"),
            ("forwarded", "for=203.0.113.5;proto=https;host=\"live.example:8443\""),
            ("host", "inner.example"),
        ],
        &[
            ("x-forwarded-for", "203.0.113.5"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "live.example:8443"),
            ("forwarded", "for=203.0.113.5"),
            ("host", "inner.example"),
        ],
        &[
            ("x-forwarded-for", "203.0.113.5"),
            ("x-forwarded-host", "live.example"),
            ("x-forwarded-port", "8443"),
            ("forwarded", "for=203.0.113.5;proto=https;host=inner.example"),
        ],
    ] {
        assert_eq!(seen(headers), expected, "{headers:?}");
    }
    let v6 = &[("forwarded", "for=\"[2001:db8::7]:443\";proto=https;host=\"[2001:db8::1]\"")];
    assert_eq!(seen(v6), ("2001:db8::7".into(), "https://[2001:db8::1]".into()));
}

/// A proxy that writes one form passes the other one on as its client wrote it.
#[test]
fn forms_that_contradict_each_other_are_not_believed() {
    for headers in [
        [("x-forwarded-for", "203.0.113.5"), ("forwarded", "for=198.51.100.1")],
        [("x-real-ip", "203.0.113.5"), ("forwarded", "for=127.0.0.1")],
        [("x-forwarded-for", "203.0.113.5"), ("forwarded", "nonsense")],
    ] {
        assert_eq!(seen(&headers).0, "127.0.0.1", "{headers:?}");
    }
}

#[test]
fn the_first_proxy_of_a_chain_knows_how_the_client_called() {
    let proxies = proxies(&["10.0.0.0/8", "127.0.0.1"]);
    let called = |headers: &[(&str, &str)]| proxies.client(&parts("127.0.0.1", headers)).called;
    let outer = "203.0.113.5, 10.0.0.2";

    let each_adds = [("x-forwarded-for", outer), ("x-forwarded-proto", "https, http"), ("host", "live.example")];
    assert_eq!(called(&each_adds).as_deref(), Some("https://live.example"));
    let one_sets = [("x-forwarded-for", outer), ("x-forwarded-proto", "https"), ("host", "live.example")];
    assert_eq!(called(&one_sets).as_deref(), Some("https://live.example"));
    let elements = [("forwarded", "for=203.0.113.5;proto=https;host=live.example, for=10.0.0.2;proto=http;host=inner")];
    assert_eq!(called(&elements).as_deref(), Some("https://live.example"));
    // What stands before the client's own hop is the client's own text.
    let forged = [("forwarded", "for=1.1.1.1;host=evil.example, for=203.0.113.5;proto=https;host=live.example")];
    assert_eq!(called(&forged).as_deref(), Some("https://live.example"));
}

#[test]
fn the_port_of_a_scheme_is_none() {
    let called = |proto: &str, host: &str, port: &str| {
        let port = if port.is_empty() { ("x-ignored", "") } else { ("x-forwarded-port", port) };
        seen(&[("x-forwarded-for", "203.0.113.5"), ("x-forwarded-proto", proto), ("host", host), port]).1
    };

    assert_eq!(called("https", "live.example:443", ""), "https://live.example");
    assert_eq!(called("https", "live.example", "443"), "https://live.example");
    assert_eq!(called("http", "live.example:80", "80"), "http://live.example");
    assert_eq!(called("https", "live.example:80", ""), "https://live.example:80");
    assert_eq!(called("https", "live.example", "8443"), "https://live.example:8443");
    assert_eq!(called("https", "live.example:9443", "8443"), "https://live.example:9443");
    assert_eq!(called("https", "live.example", "nonsense"), "https://live.example");
    let without_proto = [("x-forwarded-for", "203.0.113.5"), ("host", "live.example"), ("x-forwarded-port", "443")];
    assert_eq!(seen(&without_proto).1, "https://live.example");
}

#[test]
fn only_a_call_that_no_proxy_passed_on_is_local() {
    let local = |peer: &str, headers: &[(&str, &str)]| by_default().client(&parts(peer, headers)).is_local;

    for host in ["127.0.0.1:7880", "localhost:7880", "[::1]:7880", "onair.localhost"] {
        assert!(local("127.0.0.1", &[("host", host)]) && local("::1", &[("host", host)]), "{host}");
    }
    assert!(local("::ffff:127.0.0.1", &[("host", "127.0.0.1")]));
    assert!(!local("127.0.0.1", &[]), "it does not say under which name it calls");
    assert!(!local("203.0.113.5", &[("host", "127.0.0.1")]));
    let mut by_nginx_as_installed = parts("127.0.0.1", &[("host", "127.0.0.1:7880")]);
    by_nginx_as_installed.version = Version::HTTP_10;
    assert!(!by_default().client(&by_nginx_as_installed).is_local);
    assert!(!local("127.0.0.1", &[("host", "live.example")]));
    for header in ["x-forwarded-for", "x-real-ip", "forwarded", "x-forwarded-proto", "x-forwarded-host"] {
        for value in ["127.0.0.1", "for=127.0.0.1", "unix:", ""] {
            assert!(!local("127.0.0.1", &[("host", "127.0.0.1"), (header, value)]), "{header}: {value}");
        }
    }
}

/// What browsers call by another name, whose owner it then is, or take for no authority at all.
#[test]
fn what_only_looks_like_this_machine_is_not_it() {
    for host in [
        "[::1].evil.example",
        "[::1]evil.example",
        "[::1]80",
        "[::1]]",
        "[[::1]",
        "[127.0.0.1]",
        "::1",
        "[::1",
        "[::1%25lo]",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost:evil.example",
        "localhost:80:evil.example",
        "localhost:+80",
        "localhost:65536",
        "127.0.0.1:evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost#evil.example",
        "localhost/evil.example",
        "localhost\\evil.example",
        "localhost,evil.example",
        "evil.example",
        "127.1",
        "0x7f000001",
        " localhost",
        "",
        ":80",
    ] {
        assert!(!names_this_machine(host) && !is_no_name_of_dns(host), "{host}");
    }
    for host in
        ["localhost", "LocalHost:7880", "localhost:", "127.0.0.1", "127.9.9.9:80", "[::1]", "[::FFFF:127.0.0.1]:7880"]
    {
        assert!(names_this_machine(host) && is_no_name_of_dns(host), "{host}");
    }
    for host in ["192.168.7.7:7880", "[2001:db8::1]"] {
        assert!(!names_this_machine(host) && is_no_name_of_dns(host), "{host}");
    }
    assert!(!is_no_name_of_dns("onair.localhost"), "some resolvers ask others for it");
}

#[test]
fn an_ipv6_network_of_64_bits_is_one_client() {
    let key = |text: &str| ClientKey::from(text.parse::<IpAddr>().unwrap());

    assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
}

#[test]
fn an_authority_that_is_none_is_not_repeated() {
    for host in
        ["user@live.example", "", "a b", "a/b", "[::1].live.example", "live.example:+80", "live.example:1:2", "[x]"]
    {
        assert_eq!(called(None, Some(host), None), None, "{host}");
    }
    assert_eq!(called(None, None, None), None);
}

#[test]
fn what_is_no_network_is_refused() {
    for text in ["", "10.0.0.0/33", "10.0.0", "::/129", "a/8", "10.0.0.0/-1"] {
        assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
    }
}
