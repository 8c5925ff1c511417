//! Configuration through `fermyon:spin/variables@2.0.0`.

mod bindings {
    wit_bindgen::generate!({
        inline: "
            package guests:variables;
            world variables { import fermyon:spin/variables@2.0.0; }
            package fermyon:spin@2.0.0 {
                interface variables {
                    variant error { invalid-name(string), undefined(string), provider(string), other(string) }
                    get: func(name: string) -> result<string, error>;
                }
            }
        ",
        generate_all,
    });
}

use bindings::fermyon::spin::variables::{self, Error};

guests::handler!(guests::config::handle::<Variables>);

struct Variables;

impl guests::config::Config for Variables {
    fn get(_version: &str, name: String) -> Result<Option<String>, String> {
        match variables::get(&name) {
            Ok(value) => Ok(Some(value)),
            Err(Error::InvalidName(name)) => Err(format!("invalid-name {name}")),
            Err(Error::Undefined(name)) => Err(format!("undefined {name}")),
            Err(Error::Provider(text) | Error::Other(text)) => Err(text),
        }
    }
}
