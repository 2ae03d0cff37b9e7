//! Who may ask: programs that mean this server, and know its key if it has one.
//!
//! A web page can make a browser send requests anywhere, and by way of a name that it points to this
//! machine (DNS rebinding) read the answers. Its requests name the page's host, so only requests to
//! names that are known to be this server's are answered, and only from pages of such names.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use hyper::http::uri::{Authority, Uri};
use hyper::http::{Version, request::Parts};

use super::problem::Problem;

/// Decides who is answered.
pub struct Guard {
    hosts: Vec<String>,
    /// Hash of the key: equal hashes are found out in constant time, whatever the lengths.
    key: Option<blake3::Hash>,
}

impl Guard {
    /// `hosts` are names of this server besides loopback ones and addresses at which clients reach it.
    pub fn new(hosts: Vec<String>, key: Option<&str>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { hosts, key: key.map(|key| blake3::hash(key.as_bytes())) }
    }

    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Checks that a request, which came in at the address `local`, is meant for this server, and does
    /// not come from somebody else's page.
    pub fn check_hosts(&self, request: &Parts, local: IpAddr) -> Result<(), Problem> {
        let named = one(&request.headers, HOST)?;
        if named.is_none() && request.version >= Version::HTTP_11 {
            return Err(Problem::bad(None, "the request has no Host header"));
        }
        let hosts = named.into_iter().chain(request.uri.authority().map(Authority::as_str));
        for host in hosts {
            let name = host.parse::<Authority>().ok();
            if !name.is_some_and(|name| self.knows(name.host(), local)) {
                let message = format!(
                    "the request is for the host '{host}', which this server does not go by; start \
                     it with --allow-host if it should"
                );
                return Err(Problem::with_status(403, message));
            }
        }
        let Some(origin) = one(&request.headers, ORIGIN)? else { return Ok(()) };
        let page = origin.parse::<Uri>().ok();
        if !page.is_some_and(|page| page.host().is_some_and(|host| self.knows(host, local))) {
            let message = format!(
                "the request comes from a page of '{origin}'; start the server with --allow-host to \
                 answer it"
            );
            return Err(Problem::with_status(403, message));
        }
        Ok(())
    }

    fn knows(&self, host: &str, local: IpAddr) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match host.trim_matches(['[', ']']).parse::<IpAddr>().map(|address| address.to_canonical())
        {
            Ok(address) if address.is_loopback() || address == local.to_canonical() => true,
            _ => host == "localhost" || self.hosts.contains(&host),
        }
    }

    /// Checks that whoever asks has the key.
    pub fn check_key(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(key) = self.key else { return Ok(()) };
        let given = one(headers, AUTHORIZATION)?.and_then(|value| value.split_once(' '));
        let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match given {
            Some((_, given)) if blake3::hash(given.trim().as_bytes()) == key => Ok(()),
            Some(_) => Err(Problem::with_status(401, "this is not the server's API key")),
            None => Err(Problem::with_status(401, "the server wants its API key as Bearer token")),
        }
    }
}

/// The value of a header that comes once at most.
fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let (first, second) = (values.next(), values.next());
    let value = first.map(|value| value.to_str()).transpose();
    match value {
        Ok(value) if second.is_none() => Ok(value),
        _ => Err(Problem::bad(None, format!("{name} must come once, in plain characters"))),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn check(guard: &Guard, lines: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().uri("/health");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let local = [10, 0, 0, 7].into();
        let checked =
            guard.check_hosts(&parts, local).and_then(|()| guard.check_key(&parts.headers));
        checked.err().map(|problem| problem.status)
    }

    #[test]
    fn only_requests_to_known_names_from_known_pages_pass() {
        let guard = Guard::new(vec!["Models.example".into()], None);
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1",
            "127.8.9.1:1",
            "[::1]:8080",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "10.0.0.7:8080",
            "models.example",
            "models.example:443",
        ] {
            assert_eq!(check(&guard, &[("host", host)]), None, "{host}");
            if !host.ends_with('.') {
                let origin = format!("http://{host}");
                let lines = [("host", "localhost"), ("origin", &origin)];
                assert_eq!(check(&guard, &lines), None, "{origin}");
            }
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.8",
            "127.0.0.1.evil.example",
            "",
            "other.models.example",
            "localhost@evil.example",
            "evil.example:8080",
            "[::2]",
            "0x7f.1",
            "local host",
        ] {
            assert_eq!(check(&guard, &[("host", host)]), Some(403), "{host}");
            let origin = format!("http://{host}");
            let lines = [("host", "localhost"), ("origin", origin.as_str())];
            assert_eq!(check(&guard, &lines), Some(403), "{origin}");
        }
        for origin in ["null", "", "file:///x", "localhost evil"] {
            let lines = [("host", "localhost"), ("origin", origin)];
            assert_eq!(check(&guard, &lines), Some(403), "{origin}");
        }
        assert_eq!(check(&guard, &[]), Some(400), "HTTP/1.1 names its host");
        assert_eq!(check(&guard, &[("host", "localhost"), ("host", "localhost")]), Some(400));
    }

    #[test]
    fn only_the_key_opens() {
        let guard = Guard::new(Vec::new(), Some("secret"));
        let with = |value| check(&guard, &[("host", "localhost"), ("authorization", value)]);
        for right in ["Bearer secret", "bearer secret", "BEARER  secret "] {
            assert_eq!(with(right), None, "{right}");
        }
        for wrong in
            ["", "secret", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets", "Basic secret"]
        {
            assert_eq!(with(wrong), Some(401), "{wrong}");
        }
        assert_eq!(check(&guard, &[("host", "localhost")]), Some(401));
    }
}
