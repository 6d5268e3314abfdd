package router

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Placement says on which nodes an app's instances may be, and on which they
// had better be. The zero value leaves all to the product.
type Placement struct {
	Nodes   []string          `json:"nodes,omitempty"`   // only these, by name
	Require map[string]string `json:"require,omitempty"` // only nodes with all these labels
	Avoid   map[string]string `json:"avoid,omitempty"`   // no node with any of these labels
	Prefer  map[string]string `json:"prefer,omitempty"`  // rather nodes with these labels, the more the better
	Spread  string            `json:"spread,omitempty"`  // label whose values are failure domains: instances are spread over them; empty: over nodes
	Near    []string          `json:"near,omitempty"`    // rather nodes where these apps have instances
	Apart   []string          `json:"apart,omitempty"`   // no node where these apps have instances
}

// Refuses says why a node may not take instances; empty where it may.
func (p Placement) Refuses(n *Node) string {
	if len(p.Nodes) > 0 && !slices.Contains(p.Nodes, n.Name) {
		return "placement.nodes does not name it"
	}
	if len(p.Require)+len(p.Avoid) == 0 {
		return "" // nearly always: this is asked of every node
	}
	for _, key := range slices.Sorted(maps.Keys(p.Require)) {
		if have, ok := n.Labels[key]; !ok || have != p.Require[key] {
			return fmt.Sprintf("placement.require wants the label %s=%s, it has %s", key, p.Require[key], labelText(n, key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.Avoid)) {
		if have, ok := n.Labels[key]; ok && have == p.Avoid[key] {
			return fmt.Sprintf("placement.avoid excludes the label %s=%s", key, have)
		}
	}
	return ""
}

func labelText(n *Node, key string) string {
	if v, ok := n.Labels[key]; ok {
		return key + "=" + v
	}
	return "none of that key"
}

// Domain is the failure domain of a node: the value of the label that Spread
// names, or the node itself where there is no such label.
func (p Placement) Domain(n *Node) string {
	if v, ok := n.Labels[p.Spread]; ok && p.Spread != "" {
		return p.Spread + "=" + v
	}
	return n.Name
}

// Most entries that one key of [placement] takes, so that records stay small.
const maxPlacement = 64

var labelForm = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9_./-]{0,61}[A-Za-z0-9])?$`)

// CheckLabel says what is wrong with a node's label, or with one that is
// asked for.
func CheckLabel(field, key, value string) *Violation {
	if labelForm.MatchString(key) && labelForm.MatchString(value) {
		return nil
	}
	return &Violation{field, key + "=" + value, "key and value of letters, digits, ., _, / and -, at most 63 each", "write it as zone=rack1"}
}

// placementFields are the manifest's [placement].
var placementFields = []ManifestField{
	{"placement.nodes", "list of strings", "all", "run only on these nodes, by name", setNames(func(m *Manifest) *[]string { return &m.Run.Placement.Nodes }, `write nodes = ["n1", "n2"]`)},
	{"placement.require", "labels", "none", "run only on nodes with all these labels: `require = { zone = \"a\" }`", setLabels(func(m *Manifest) *map[string]string { return &m.Run.Placement.Require }, `write require = { zone = "a" }`)},
	{"placement.avoid", "labels", "none", "run on no node with any of these labels", setLabels(func(m *Manifest) *map[string]string { return &m.Run.Placement.Avoid }, `write avoid = { spot = "yes" }`)},
	{"placement.prefer", "labels", "none", "rather run on nodes with these labels", setLabels(func(m *Manifest) *map[string]string { return &m.Run.Placement.Prefer }, `write prefer = { disk = "ssd" }`)},
	{"placement.spread", "string", "over nodes", "spread instances over the values of this node label, such as zone", setString(func(m *Manifest) *string { return &m.Run.Placement.Spread }, func(s string) (string, string) {
		if !labelForm.MatchString(s) {
			return "the name of a label", `write spread = "zone"`
		}
		return "", ""
	})},
	{"placement.near", "list of strings", "none", "rather run where these apps have instances", setNames(func(m *Manifest) *[]string { return &m.Run.Placement.Near }, `write near = ["database"]`)},
	{"placement.apart", "list of strings", "none", "never run on a node where these apps have instances", setNames(func(m *Manifest) *[]string { return &m.Run.Placement.Apart }, `write apart = ["noisy"]`)},
}

func setNames(at func(*Manifest) *[]string, remedy string) func(*Manifest, any) (string, string) {
	return func(m *Manifest, v any) (string, string) {
		list, ok := stringList(v)
		if !ok || len(list) == 0 || len(list) > maxPlacement || slices.Contains(list, "") {
			return fmt.Sprintf("a list of 1 to %d names", maxPlacement), remedy
		}
		*at(m) = list
		return "", ""
	}
}

func setLabels(at func(*Manifest) *map[string]string, remedy string) func(*Manifest, any) (string, string) {
	return func(m *Manifest, v any) (string, string) {
		table, ok := v.(map[string]any)
		if !ok || len(table) == 0 || len(table) > maxPlacement {
			return fmt.Sprintf("a table of 1 to %d labels", maxPlacement), remedy
		}
		labels := map[string]string{}
		for key, v := range table {
			value, ok := v.(string)
			if !ok || CheckLabel("", key, value) != nil {
				return "labels: names and values of 1 to 63 of A-Z, a-z, 0-9 and _ . / -", remedy
			}
			labels[key] = value
		}
		*at(m) = labels
		return "", ""
	}
}
