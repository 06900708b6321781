//! The HTTP connection managers, their filters and their routes: what a request meets on its way.

use super::{
    Expect,
    setup::Setup,
    tree::{Flag, Tree, Typed},
    ways,
};

/// One HTTP connection manager that asks mcp-authz, or that leads to a server which others ask about.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    pub(super) listener: Tree<'a>,
    pub(super) chain: Tree<'a>,
    pub(super) hcm: Tree<'a>,
    pub(super) filters: Vec<Filter<'a>>,
    pub(super) routes: Vec<Route<'a>>,
    /// Routes that are not in the configuration.
    pub(super) gaps: Vec<(Tree<'a>, &'static str)>,
    /// Whether one of its filters is ext_authz.
    pub(super) asks: bool,
}

/// One HTTP filter.
#[derive(Clone, Debug)]
pub(super) struct Filter<'a> {
    pub(super) name: &'a str,
    pub(super) at: Tree<'a>,
    /// `None` if its configuration is not there.
    pub(super) typed: Option<Typed<'a>>,
    /// The matcher around it.
    pub(super) matcher: Option<Tree<'a>>,
    pub(super) is_disabled: bool,
}

/// One route that leads to clusters.
#[derive(Clone, Debug)]
pub(super) struct Route<'a> {
    pub(super) table: Tree<'a>,
    pub(super) host: Tree<'a>,
    pub(super) route: Tree<'a>,
    /// The action `route`, or something that is no action we know.
    pub(super) action: Tree<'a>,
    pub(super) clusters: Vec<&'a str>,
    /// Whether a header or a plugin picks the cluster.
    pub(super) is_open: bool,
}

/// What a filter does on a route.
#[derive(Debug)]
pub(super) enum Applied<'a> {
    /// With what the route says of it.
    On(Option<Typed<'a>>),
    Off(Tree<'a>),
    /// Not understood.
    Odd(Tree<'a>),
}

impl<'a> Route<'a> {
    /// The nearest word about a filter: of the route, its host, its table.
    fn word(&self, name: &str) -> Option<Tree<'a>> {
        [&self.route, &self.host, &self.table].into_iter().find_map(|at| at.at(&["typed_per_filter_config", name]))
    }

    pub(super) fn applied(&self, filter: &Filter<'a>) -> Applied<'a> {
        // Each of several clusters may say something else.
        for weighted in self.action.at(&["weighted_clusters", "clusters"]).iter().flat_map(Tree::elements) {
            if let Some(at) = weighted.at(&["typed_per_filter_config", filter.name]) {
                return Applied::Odd(at);
            }
        }
        let Some(word) = self.word(filter.name) else {
            return if filter.is_disabled { Applied::Off(filter.at.clone()) } else { Applied::On(None) };
        };
        let Some(mut typed) = word.as_typed() else { return Applied::Odd(word) };
        if typed.is("route.v3.FilterConfig") {
            if typed.config.flag("disabled") == Flag::Yes {
                return Applied::Off(typed.config);
            }
            match typed.config.get("config") {
                None => return Applied::On(None),
                Some(inner) if inner.is_empty() => return Applied::On(None),
                Some(inner) => match inner.as_typed() {
                    Some(inner) => typed = inner,
                    None => return Applied::Odd(inner),
                },
            }
        }
        match typed.config.flag("disabled") {
            Flag::Yes => Applied::Off(typed.config),
            Flag::Odd => Applied::Odd(typed.config),
            Flag::Absent | Flag::No => Applied::On(Some(typed)),
        }
    }
}

impl<'a> Gate<'a> {
    pub(super) fn of_type<'b>(&'b self, end: &'b str) -> impl Iterator<Item = &'b Filter<'a>> {
        self.filters.iter().filter(move |filter| filter.typed.as_ref().is_some_and(|typed| typed.is(end)))
    }

    pub(super) fn authz(&self) -> impl Iterator<Item = &Filter<'a>> {
        self.of_type(AUTHZ)
    }

    /// The position of a filter.
    pub(super) fn position(&self, filter: &Filter<'a>) -> Option<usize> {
        self.filters.iter().position(|other| other.name == filter.name)
    }
}

pub(super) const AUTHZ: &str = "ext_authz.v3.ExtAuthz";

/// Every gate that has to do with MCP; empty if none asks anybody.
pub(super) fn of<'a>(setup: &Setup<'a>, expect: &Expect) -> Vec<Gate<'a>> {
    let mut gates = Vec::new();
    for listener in &setup.listeners {
        let chains = listener.items("filter_chains").into_iter().chain(listener.get("default_filter_chain"));
        for chain in chains {
            for network in chain.items("filters") {
                let Some(typed) = network.typed("typed_config") else { continue };
                if typed.is("http_connection_manager.v3.HttpConnectionManager") {
                    gates.push(gate(setup, listener, &chain, typed.config));
                }
            }
        }
    }
    let upstreams = ways::same(setup, expect.upstreams.iter().map(String::as_str));
    if !gates.iter().any(|gate| gate.asks) {
        let named = |gate: &Gate<'_>| {
            gate.routes.iter().any(|route| route.clusters.iter().any(|name| upstreams.contains(*name)))
        };
        // Whoever names the servers has found a way to them that nobody guards.
        if !gates.iter().any(named) {
            return Vec::new();
        }
    }
    for gate in gates.iter_mut().filter(|gate| gate.asks && !expect.upstreams.is_empty()) {
        gate.routes.retain(|route| {
            route.is_open || route.clusters.iter().any(|name| upstreams.contains(*name) || ways::is_open(setup, name))
        });
    }
    gates
}

fn gate<'a>(setup: &Setup<'a>, listener: &Tree<'a>, chain: &Tree<'a>, hcm: Tree<'a>) -> Gate<'a> {
    let filters: Vec<_> = hcm.items("http_filters").iter().map(|at| filter(setup, at)).collect();
    let (mut tables, mut gaps) = (Vec::new(), Vec::new());
    tables.extend(hcm.get("route_config"));
    if let Some(rds) = hcm.get("rds") {
        let name = rds.text("route_config_name");
        match setup.routes.iter().find(|table| table.text("name") == name) {
            Some(table) => tables.push(table.clone()),
            None => gaps.push((rds, "its routes are not in what was given")),
        }
    }
    gaps.extend(hcm.get("scoped_routes").map(|at| (at, "scoped routes are not looked into")));
    let mut routes = Vec::new();
    for table in &tables {
        gaps.extend(table.get("vhds").map(|at| (at, "virtual hosts come on demand")));
        for host in table.items("virtual_hosts") {
            gaps.extend(host.get("matcher").map(|at| (at, "a tree of matchers is not looked into")));
            routes.extend(host.items("routes").iter().filter_map(|at| route(table, &host, at)));
        }
    }
    let asks = filters.iter().any(|filter| filter.typed.as_ref().is_some_and(|typed| typed.is(AUTHZ)));
    Gate { listener: listener.clone(), chain: chain.clone(), hcm, filters, routes, gaps, asks }
}

fn filter<'a>(setup: &Setup<'a>, at: &Tree<'a>) -> Filter<'a> {
    let name = at.text("name").unwrap_or_default();
    let is_disabled = at.flag("disabled") == Flag::Yes;
    let mut typed = at.typed("typed_config");
    if typed.is_none() && at.has("config_discovery") {
        let extension = setup.extensions.iter().find(|extension| extension.text("name") == Some(name));
        typed = extension.and_then(|extension| extension.typed("typed_config"));
    }
    let mut matcher = None;
    if let Some(around) = typed.as_ref().filter(|typed| typed.is("matching.v3.ExtensionWithMatcher")) {
        let config = around.config.clone();
        matcher = config.get("xds_matcher").or_else(|| config.get("matcher")).or_else(|| Some(config.clone()));
        typed = config.at(&["extension_config"]).and_then(|inner| inner.typed("typed_config"));
    }
    Filter { name, at: at.clone(), typed, matcher, is_disabled }
}

/// `None` for routes that Envoy answers by itself.
fn route<'a>(table: &Tree<'a>, host: &Tree<'a>, at: &Tree<'a>) -> Option<Route<'a>> {
    if at.has("direct_response") || at.has("redirect") || at.has("non_forwarding_action") {
        return None;
    }
    let action = at.get("route").unwrap_or_else(|| at.clone());
    let mut clusters: Vec<&str> = action.text("cluster").into_iter().collect();
    let weighted = action.at(&["weighted_clusters", "clusters"]).map(|list| list.elements()).unwrap_or_default();
    clusters.extend(weighted.iter().filter_map(|cluster| cluster.text("name")));
    let is_open = clusters.is_empty()
        || ["cluster_header", "cluster_specifier_plugin", "inline_cluster_specifier_plugin"]
            .iter()
            .any(|key| action.has(key))
        || weighted.iter().any(|cluster| cluster.has("cluster_header"));
    Some(Route { table: table.clone(), host: host.clone(), route: at.clone(), action, clusters, is_open })
}
