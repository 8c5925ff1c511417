//! `/PORT`: tries to reach that port of this machine, and other places, in every way there is; a line for each try.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingRequest, ResponseOutparam, Scheme};
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

guests::handler!(handle);

const HOSTS: &[&str] = &[
    "127.0.0.1",
    "[::ffff:127.0.0.1]",
    "0x7f.1",
    "2130706433",
    "169.254.169.254",
    "[fd00:ec2::254]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "localhost.",
    "localhost",
    "rebind.localhost",
];

fn handle(request: IncomingRequest, out: ResponseOutparam) {
    let port = guests::number(&request, 0, 80) as u16;
    let mut lines: Vec<String> = HOSTS
        .iter()
        .map(|host| format!("http {host} {}\n", http(&format!("{host}:{port}"))))
        .collect();
    lines.push(format!("tcp {}\n", tcp(port)));
    lines.push(format!("udp {}\n", udp(port)));
    for name in ["localhost", "localhost.", "127.0.0.1", "example.com"] {
        lines.push(format!("name {name} {}\n", look_up(name)));
    }
    guests::answer(out, 200, &lines.concat());
}

fn http(authority: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_path_with_query(Some("/"));
    if request.set_authority(Some(authority)).is_err() {
        return "invalid".into();
    }
    match wasip2::http::outgoing_handler::handle(request, None) {
        Err(error) => format!("{error:?}"),
        Ok(_) => "sent".into(),
    }
}

fn local(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port,
        address: (127, 0, 0, 1),
    })
}

fn tcp(port: u16) -> String {
    let socket = match tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4) {
        Err(error) => return error.name().into(),
        Ok(socket) => socket,
    };
    if let Err(error) = socket.start_connect(&instance_network::instance_network(), local(port)) {
        return error.name().into();
    }
    socket.subscribe().block();
    match socket.finish_connect() {
        Err(error) => error.name().into(),
        Ok(_) => "connected".into(),
    }
}

fn udp(port: u16) -> String {
    let socket = match udp_create_socket::create_udp_socket(IpAddressFamily::Ipv4) {
        Err(error) => return error.name().into(),
        Ok(socket) => socket,
    };
    let network = instance_network::instance_network();
    if let Err(error) = socket.start_bind(&network, local(0)) {
        return error.name().into();
    }
    if let Err(error) = socket.finish_bind() {
        return error.name().into();
    }
    let (_, outgoing) = match socket.stream(None) {
        Err(error) => return error.name().into(),
        Ok(streams) => streams,
    };
    let datagram = OutgoingDatagram {
        data: b"out".to_vec(),
        remote_address: Some(local(port)),
    };
    let _ = outgoing.check_send();
    match outgoing.send(&[datagram]) {
        Err(error) => error.name().into(),
        Ok(_) => "sent".into(),
    }
}

fn look_up(name: &str) -> String {
    let network = instance_network::instance_network();
    let addresses = match ip_name_lookup::resolve_addresses(&network, name) {
        Err(error) => return error.name().into(),
        Ok(addresses) => addresses,
    };
    addresses.subscribe().block();
    match addresses.resolve_next_address() {
        Err(error) => error.name().into(),
        Ok(address) => format!("{address:?}"),
    }
}
