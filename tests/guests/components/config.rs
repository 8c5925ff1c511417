//! Configuration through `wasi:config/store`, in the version that the path names: `draft`, `dated` or `candidate`.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:config;
            world config {
                import wasi:config/store@0.2.0-draft;
                import wasi:config/store@0.2.0-draft-2024-09-27;
                import wasi:config/store@0.2.0-rc.1;
            }
            package wasi:config@0.2.0-draft {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
            package wasi:config@0.2.0-draft-2024-09-27 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
        ",
        generate_all,
    });
}

use bindings::wasi::{
    config0_2_0_draft::store as draft, config0_2_0_draft_2024_09_27::store as dated,
    config0_2_0_rc_1::store as candidate,
};

guests::handler!(guests::config::handle::<Store>);

struct Store;

impl guests::config::Config for Store {
    fn get(version: &str, name: String) -> Result<Option<String>, String> {
        match version {
            "draft" => draft::get(&name).map_err(|error| format!("{error:?}")),
            "dated" => dated::get(&name).map_err(|error| format!("{error:?}")),
            _ => candidate::get(&name).map_err(|error| format!("{error:?}")),
        }
    }

    fn all(version: &str) -> Result<Vec<(String, String)>, String> {
        match version {
            "draft" => draft::get_all().map_err(|error| format!("{error:?}")),
            "dated" => dated::get_all().map_err(|error| format!("{error:?}")),
            _ => candidate::get_all().map_err(|error| format!("{error:?}")),
        }
    }
}
