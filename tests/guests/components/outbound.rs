//! Tries what was not granted: an HTTP request, a TCP connection, a name looked up, a file. Says how each was refused.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingRequest, ResponseOutparam, Scheme};
use wasip2::sockets::{instance_network, ip_name_lookup, network, tcp_create_socket};

guests::handler!(handle);

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let authority = request.authority().unwrap_or_default();
    let text = format!(
        "http {}\ntcp {}\nname {}\nfile {}\n",
        http(&authority),
        tcp(),
        name(),
        file()
    );
    guests::answer(out, 200, &text);
}

fn http(authority: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request
        .set_authority(Some(authority))
        .expect("an authority");
    request.set_path_with_query(Some("/")).expect("a path");
    match wasip2::http::outgoing_handler::handle(request, None) {
        Err(error) => format!("{error:?}"),
        Ok(future) => {
            future.subscribe().block();
            match future.get() {
                Some(Ok(Ok(response))) => format!("answered {}", response.status()),
                other => format!("{other:?}"),
            }
        }
    }
}

fn tcp() -> String {
    match tcp_create_socket::create_tcp_socket(network::IpAddressFamily::Ipv4) {
        Err(error) => format!("{error:?}"),
        Ok(_) => "made".into(),
    }
}

fn name() -> String {
    match ip_name_lookup::resolve_addresses(&instance_network::instance_network(), "localhost") {
        Err(error) => format!("{error:?}"),
        Ok(_) => "looked up".into(),
    }
}

fn file() -> String {
    match std::fs::read_to_string("/etc/hostname") {
        Err(error) => error.to_string(),
        Ok(text) => text,
    }
}
