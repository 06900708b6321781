// istio-translate prints what istiod makes of a recipe, in the shape of Envoy's config dump: the real code of istiod on objects from
// files, without a cluster. The recipe is validated first, as the webhook of istiod does it.
//
//	istio-translate -o OUT -namespace mcp -label app=mcp-server -ip 10.1.0.1 FILE...
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pilot/pkg/model"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/test"
)

type object struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]any    `json:"metadata"`
	Data       map[string]string `json:"data"`
}

var separator = regexp.MustCompile(`(?m)^---\s*$`)

func main() {
	// Standard output has the log of istiod.
	to := flag.String("o", "", "file to write")
	namespace := flag.String("namespace", "default", "namespace of the workload")
	label := flag.String("label", "", "label of the workload, key=value")
	ip := flag.String("ip", "10.1.0.1", "address of the workload")
	flag.Parse()
	if err := run(*to, *namespace, *label, *ip, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "istio-translate:", err)
		os.Exit(1)
	}
}

func run(to, namespace, label, ip string, files []string) error {
	settings := mesh.DefaultMeshConfig()
	var kube, istio []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, part := range separator.Split(string(text), -1) {
			var found object
			if err := yaml.Unmarshal([]byte(part), &found); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			switch {
			case found.Kind == "":
			case found.Kind == "ConfigMap" && found.Data["mesh"] != "":
				if settings, err = apply(found.Data["mesh"], settings); err != nil {
					return fmt.Errorf("%s: %w", file, err)
				}
			case strings.Contains(found.APIVersion, "istio.io/"):
				configs, unknown, err := crd.ParseInputs(part)
				if err != nil || len(unknown) > 0 || len(configs) != 1 {
					return fmt.Errorf("%s: %s: %w %v", file, found.Kind, err, unknown)
				}
				istio = append(istio, part)
			default:
				kube = append(kube, part)
			}
		}
	}
	var out []byte
	err := test.Wrap(func(t test.Failer) {
		server := xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
			ConfigString:           strings.Join(istio, "\n---\n"),
			KubernetesObjectString: strings.Join(kube, "\n---\n"),
			MeshConfig:             settings,
		})
		key, value, _ := strings.Cut(label, "=")
		labels := map[string]string{key: value}
		proxy := server.SetupProxy(&model.Proxy{
			Type:            model.SidecarProxy,
			ConfigNamespace: namespace,
			IPAddresses:     []string{ip},
			Labels:          labels,
			Metadata: &model.NodeMetadata{
				Namespace: namespace, Labels: labels, ClusterID: "Kubernetes", IstioVersion: "1.31.0", ServiceAccount: "mcp-server",
			},
		})
		listeners, clusters, routes, endpoints := []any{}, []any{}, []any{}, []any{}
		for _, listener := range server.Listeners(proxy) {
			listeners = append(listeners, map[string]any{"name": listener.Name, "active_state": map[string]any{"listener": packed(t, listener)}})
		}
		for _, cluster := range server.Clusters(proxy) {
			clusters = append(clusters, map[string]any{"cluster": packed(t, cluster)})
		}
		// Routes come in the order of a map.
		tables := server.Routes(proxy)
		slices.SortFunc(tables, func(a, b *route.RouteConfiguration) int { return strings.Compare(a.Name, b.Name) })
		for _, table := range tables {
			routes = append(routes, map[string]any{"route_config": packed(t, table)})
		}
		for _, endpoint := range server.Endpoints(proxy) {
			endpoints = append(endpoints, map[string]any{"endpoint_config": packed(t, endpoint)})
		}
		dump := map[string]any{"configs": []any{
			map[string]any{"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": listeners},
			map[string]any{"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": clusters},
			map[string]any{"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": routes},
			map[string]any{"@type": "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump", "dynamic_endpoint_configs": endpoints},
		}}
		text, err := json.MarshalIndent(dump, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		out = text
	})
	if err != nil {
		return err
	}
	return os.WriteFile(to, append(out, '\n'), 0o644)
}

func apply(text string, onto *meshconfig.MeshConfig) (*meshconfig.MeshConfig, error) {
	return mesh.ApplyMeshConfig(text, onto)
}

// packed has the names of fields as Envoy writes them in its dump.
func packed(t test.Failer, message proto.Message) any {
	wrapped, err := anypb.New(message)
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}
