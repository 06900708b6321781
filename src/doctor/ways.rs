//! Which clusters lead to the same servers, whatever they are called.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{setup::Setup, tree::Tree};

/// The names of clusters that lead where one of these leads: by an address that they share, or by a cluster of clusters.
pub(super) fn same<'n>(setup: &Setup<'_>, names: impl IntoIterator<Item = &'n str>) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
    // A cluster of clusters may hold another one, so it is looked for until nothing is added.
    loop {
        let known: BTreeSet<String> =
            found.iter().filter_map(|name| setup.cluster(name)).flat_map(|cluster| addresses(setup, cluster)).collect();
        let leads = |cluster: &&Tree<'_>| {
            let parts = cluster.at(&["cluster_type", "typed_config"]).map(|typed| typed.texts("clusters"));
            parts.unwrap_or_default().iter().any(|part| found.contains(*part))
                || addresses(setup, cluster).iter().any(|address| known.contains(address))
        };
        let more: Vec<&str> = setup.clusters.iter().filter(leads).filter_map(|cluster| cluster.text("name")).collect();
        let before = found.len();
        found.extend(more.into_iter().map(str::to_owned));
        if found.len() == before {
            return found;
        }
    }
}

/// Internal addresses are left out: behind one there may be many servers.
fn addresses(setup: &Setup<'_>, cluster: &Tree<'_>) -> Vec<String> {
    let of = |endpoint: Tree<'_>| {
        let address = endpoint.at(&["endpoint", "address"])?;
        if let Some(pipe) = address.get("pipe") {
            return Some(format!("unix:{}", pipe.text("path")?));
        }
        let socket = address.get("socket_address")?;
        Some(format!("{}:{}", socket.text("address")?.to_ascii_lowercase(), socket.number("port_value")?))
    };
    setup.endpoints_of(cluster).unwrap_or_default().into_iter().filter_map(of).collect()
}

/// Whether callers name the address that the cluster connects to.
pub(super) fn is_open(setup: &Setup<'_>, name: &str) -> bool {
    setup.cluster(name).is_some_and(|cluster| {
        let kind = cluster.at(&["cluster_type", "typed_config"]).and_then(|config| config.as_typed());
        kind.is_some_and(|typed| typed.is("dynamic_forward_proxy.v3.ClusterConfig"))
            || cluster.at(&["original_dst_lb_config", "use_http_header"]).is_some()
    })
}

/// Whether a text stands anywhere in a value.
pub(super) fn mentions(value: &Value, is_it: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(found) => is_it(found),
        Value::Array(list) => list.iter().any(|value| mentions(value, is_it)),
        Value::Object(map) => map.values().any(|value| mentions(value, is_it)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
