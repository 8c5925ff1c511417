//! Imports an interface that no platform knows: refused when it is uploaded.

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

mod vault {
    wit_bindgen::generate!({
        inline: "
            package guests:unknown;
            world unknown { import acme:vault/keys@1.2.3; }
            package acme:vault@1.2.3 { interface keys { open: func(name: string) -> bool; } }
        ",
        generate_all,
    });
}

guests::handler!(handle);

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let open = vault::acme::vault::keys::open("front");
    guests::answer(out, 200, &format!("{open}\n"));
}
