//! The JSON Schema of the configuration file, for editors and CI. It is generated from the model, and published as
//! `ctl/ivswitch.schema.json`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{AddressOrPrefix, Config, Mac, Ports};

/// The schema, as JSON text.
#[must_use]
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(Config);
    schema.insert("title".to_owned(), "Inception Switch configuration".into());
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

macro_rules! text_schema {
    ($($ty:ty, $name:literal, $pattern:literal;)+) => { $(
        impl JsonSchema for $ty {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    )+ };
}

text_schema! {
    Mac, "Mac", "^[0-9A-Fa-f]{1,2}([:-][0-9A-Fa-f]{1,2}){5}$";
    AddressOrPrefix, "AddressOrPrefix", "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$";
    Ports, "Ports", "^(tcp|udp)/[0-9]{1,5}(-[0-9]{1,5})?$";
}

/// The schema of a prefix, whose type belongs to another crate.
pub(crate) struct Prefix;

impl JsonSchema for Prefix {
    fn schema_name() -> Cow<'static, str> {
        "Prefix".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::config;
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ivswitch.schema.json");

    /// The file in the tree matches the model. `IVS_UPDATE=1 cargo test -p ctl schema` updates it.
    #[test]
    fn the_published_schema_is_current() {
        if std::env::var_os("IVS_UPDATE").is_some() {
            std::fs::write(PUBLISHED, schema()).unwrap();
        }
        let published = std::fs::read_to_string(PUBLISHED).unwrap_or_default();
        let how = "the model changed: `IVS_UPDATE=1 cargo test -p ctl schema`, and look at the difference";
        assert!(published == schema(), "{how}");
    }

    fn validator() -> jsonschema::Validator {
        jsonschema::validator_for(&serde_json::from_str(&schema()).unwrap()).unwrap()
    }

    /// The switch refuses the values that an editor would underline.
    #[test]
    fn wrong_forms_do_not_fit() {
        let validator = validator();
        let network = |key: &str, value: Value| {
            let mut network = json!({ "name": "a", "vni": 1 });
            network[key] = value;
            json!({ "network": [network] })
        };
        assert!(validator.is_valid(&network("fdb_age", json!(60))));
        for wrong in [
            json!({ "netwerk": [] }),
            json!({ "network": {} }),
            json!({ "network": [{ "name": "a" }] }),
            network("vni", json!("1")),
            network("vni", json!(-1)),
            network("fdb_agee", json!(60)),
            network("router_mac", json!("zz:00:00:00:00:00")),
            json!({ "port": [{ "name": "a", "network": "b", "role": "trunk" }] }),
            json!({ "floating": [{ "ip": "1.2.3.4", "network": "a", "gateway": "b", "only": ["sctp/1"] }] }),
            json!({ "workers": { "count": "many" } }),
        ] {
            assert!(!validator.is_valid(&wrong), "{wrong}");
        }
    }

    proptest! {
        /// Every configuration that the switch accepts fits the schema.
        #[test]
        fn whatever_is_taken_fits(config in config()) {
            let value = json!(config);
            let validator = validator();
            let errors: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
            prop_assert!(errors.is_empty(), "{errors:?}\n{value}");
        }
    }
}
