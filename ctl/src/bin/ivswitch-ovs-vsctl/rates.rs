//! Converts limits from OVS's form to that of ports.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::store::Row;

/// The limits from a port's policing columns; they apply to frames from the guest.
#[must_use]
pub fn ingress(values: &BTreeMap<String, String>) -> Value {
    let number = |key: &str| values.get(key).and_then(|v| v.parse::<u64>().ok()).filter(|&n| n > 0);
    // Kilobits have 1000 bits.
    let bps = number("ingress-policing-rate").map(|kbit| kbit * 1000);
    let burst = number("ingress-policing-burst").map(|kbit| kbit * 125).filter(|_| bps.is_some());
    let pps = number("ingress-policing-kpkts-rate").map(|kpkts| kpkts * 1000);
    json!({ "ingress_bps": bps, "ingress_burst": burst, "ingress_pps": pps })
}

/// The limits from a QoS row and its queue, in bits per second and bits of burst; they apply to frames to the guest.
#[must_use]
pub fn egress(qos: Option<&Row>, queue: Option<&Row>) -> Value {
    let number = |row: Option<&Row>, key: &str| {
        row?.values.get(&format!("other-config:{key}"))?.parse::<u64>().ok().filter(|&n| n > 0)
    };
    let least = |key: &str| [number(qos, key), number(queue, key)].into_iter().flatten().min();
    let bps = least("max-rate");
    let burst = least("burst").map(|bits| (bits / 8).max(1)).filter(|_| bps.is_some());
    json!({ "egress_bps": bps, "egress_burst": burst })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn kilobits_become_bits() {
        let limits =
            ingress(&values(&[("ingress-policing-rate", "8000"), ("ingress-policing-burst", "800")]));
        assert_eq!(
            limits,
            json!({ "ingress_bps": 8_000_000, "ingress_burst": 100_000, "ingress_pps": null })
        );
        let none = json!({ "ingress_bps": null, "ingress_burst": null, "ingress_pps": null });
        assert_eq!(
            ingress(&values(&[("ingress-policing-rate", "0"), ("ingress-policing-burst", "0")])),
            none
        );
        assert_eq!(ingress(&values(&[("ingress-policing-burst", "5")])), none, "a burst of no limit");
        assert_eq!(ingress(&values(&[("ingress-policing-kpkts-rate", "2")]))["ingress_pps"], 2000);
    }

    #[test]
    fn the_narrower_of_qos_and_queue_counts() {
        let row = |pairs: &[(&str, &str)]| Row { values: values(pairs), ..Row::default() };
        let qos = row(&[("other-config:max-rate", "16000000"), ("other-config:burst", "8000000")]);
        let queue = row(&[("other-config:max-rate", "8000000"), ("other-config:min-rate", "1")]);
        let limit = |bps, burst| json!({ "egress_bps": bps, "egress_burst": burst });
        assert_eq!(egress(Some(&qos), None), limit(Some(16_000_000), Some(1_000_000)));
        assert_eq!(egress(Some(&qos), Some(&queue)), limit(Some(8_000_000), Some(1_000_000)));
        assert_eq!(egress(None, None), limit(None::<u64>, None::<u64>));
    }
}
