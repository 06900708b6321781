//! A configuration of Envoy by its parts, from a bootstrap or from a dump.

use serde_json::Value;

use super::{ReadError, Version, tree::Tree};

/// A document of Envoy's, to be looked at.
#[derive(Debug)]
pub(super) struct Made {
    /// As the operator knows it.
    pub(super) name: String,
    /// A bootstrap, a config dump, or what `/server_info` says.
    pub(super) value: Value,
}

/// The parts.
#[derive(Debug, Default)]
pub(super) struct Setup<'a> {
    pub(super) admins: Vec<Tree<'a>>,
    pub(super) listeners: Vec<Tree<'a>>,
    pub(super) clusters: Vec<Tree<'a>>,
    /// By RDS.
    pub(super) routes: Vec<Tree<'a>>,
    /// `ClusterLoadAssignment`s by EDS.
    pub(super) endpoints: Vec<Tree<'a>>,
    /// Filters by ECDS: `TypedExtensionConfig`s.
    pub(super) extensions: Vec<Tree<'a>>,
    /// What is somewhere else, or did not load.
    pub(super) gaps: Vec<(Tree<'a>, &'static str)>,
    pub(super) version: Option<Version>,
    /// Whether a bootstrap was seen: without one, nothing is known of the admin port.
    pub(super) has_bootstrap: bool,
    /// Whether it is what an Envoy runs with.
    pub(super) is_dump: bool,
}

impl<'a> Setup<'a> {
    /// Takes the documents apart.
    pub(super) fn read(made: &'a [Made]) -> Result<Self, ReadError> {
        let mut setup = Self::default();
        for document in made {
            let root = Tree::root(&document.value, &document.name);
            if root.has("configs") {
                setup.is_dump = true;
                for part in root.items("configs") {
                    setup.part(&part);
                }
            } else if let Some(version) = root.text("version").filter(|_| root.has("state")) {
                setup.version = version.parse().ok();
            } else if root.has("static_resources") || root.has("dynamic_resources") {
                setup.bootstrap(&root);
            } else {
                return Err(ReadError::Odd { name: document.name.clone() });
            }
        }
        if setup.is_dump {
            // What the bootstrap says comes from elsewhere is in the rest of the dump.
            setup.gaps.retain(|(_, what)| *what != ELSEWHERE);
        }
        if setup.listeners.is_empty() {
            return Err(ReadError::NoListener);
        }
        Ok(setup)
    }

    fn bootstrap(&mut self, root: &Tree<'a>) {
        self.has_bootstrap = true;
        self.admins.extend(root.get("admin"));
        if let Some(resources) = root.get("static_resources") {
            self.listeners.extend(resources.items("listeners"));
            self.clusters.extend(resources.items("clusters"));
        }
        let dynamic = root.get("dynamic_resources");
        for key in ["lds_config", "cds_config", "lds_resources_locator", "cds_resources_locator"] {
            self.gaps.extend(dynamic.as_ref().and_then(|dynamic| dynamic.get(key)).map(|at| (at, ELSEWHERE)));
        }
        if let Some(version) = root.at(&["node", "user_agent_build_version", "version"]) {
            let part = |name| version.number(name).and_then(|number| u32::try_from(number).ok());
            self.version = part("major_number").map(|major| Version {
                major,
                minor: part("minor_number").unwrap_or_default(),
                patch: part("patch").unwrap_or_default(),
            });
        }
    }

    /// One of the dumps of which a config dump is made.
    fn part(&mut self, part: &Tree<'a>) {
        let kind = part.text("@type").and_then(|url| url.rsplit('.').next()).unwrap_or_default();
        match kind {
            "BootstrapConfigDump" => {
                if let Some(bootstrap) = part.get("bootstrap") {
                    // The static parts come again in their own dumps.
                    let (listeners, clusters) = (self.listeners.clone(), self.clusters.clone());
                    self.bootstrap(&bootstrap);
                    (self.listeners, self.clusters) = (listeners, clusters);
                }
            }
            "ListenersConfigDump" => {
                self.listeners.extend(part.items("static_listeners").iter().filter_map(|l| l.get("listener")));
                for listener in part.items("dynamic_listeners") {
                    let active = listener.at(&["active_state", "listener"]);
                    self.listeners.extend(active.or_else(|| listener.at(&["warming_state", "listener"])));
                    self.gaps
                        .extend(listener.get("error_state").map(|at| (at, "an update of the listener was refused")));
                }
            }
            "ClustersConfigDump" => {
                for key in ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"] {
                    self.clusters.extend(part.items(key).iter().filter_map(|cluster| cluster.get("cluster")));
                }
            }
            "RoutesConfigDump" => {
                for key in ["static_route_configs", "dynamic_route_configs"] {
                    self.routes.extend(part.items(key).iter().filter_map(|route| route.get("route_config")));
                }
            }
            "EndpointsConfigDump" => {
                for key in ["static_endpoint_configs", "dynamic_endpoint_configs"] {
                    self.endpoints.extend(part.items(key).iter().filter_map(|config| config.get("endpoint_config")));
                }
            }
            "EcdsConfigDump" => {
                self.extensions
                    .extend(part.items("ecds_filters").iter().filter_map(|filter| filter.get("ecds_filter")));
            }
            // Who uses them is noted with the listener.
            "ScopedRoutesConfigDump" | "SecretsConfigDump" => {}
            _ => self.gaps.push((part.clone(), "this part of the dump is not known")),
        }
    }

    pub(super) fn cluster(&self, name: &str) -> Option<&Tree<'a>> {
        self.clusters.iter().find(|cluster| cluster.text("name") == Some(name))
    }

    /// The addresses behind a cluster, in the configuration or by EDS; `None` if they are not known.
    pub(super) fn endpoints_of(&self, cluster: &Tree<'a>) -> Option<Vec<Tree<'a>>> {
        let assigned = cluster.get("load_assignment").or_else(|| {
            let eds = cluster.get("eds_cluster_config")?;
            let name = eds.text("service_name").or_else(|| cluster.text("name"))?;
            self.endpoints.iter().find(|found| found.text("cluster_name") == Some(name)).cloned()
        })?;
        let localities = assigned.items("endpoints");
        let endpoints: Vec<_> = localities.iter().flat_map(|locality| locality.items("lb_endpoints")).collect();
        (!endpoints.is_empty()).then_some(endpoints)
    }
}

const ELSEWHERE: &str = "comes from elsewhere: look at a dump of the running Envoy";
