package podman

import (
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

func TestInventory(t *testing.T) {
	base, own, other := Layer{"sha256:base", 100}, Layer{"sha256:own", 20}, Layer{"sha256:other", 3}
	v := newInventory()
	v.set("n1", map[string]int64{"a": 1000})
	v.set("n2", map[string]int64{})
	v.learn("a", []Layer{base, own}) // after it is known where the image is
	v.learn("b", []Layer{base, other})
	v.add("n3", "b") // before or after, it is the same
	for name, tt := range map[string]struct {
		node, image string
		want        router.Bytes
	}{
		"it is there":                     {"n1", "a", 0},
		"its layers are not":              {"n2", "a", 120},
		"one layer is, with another":      {"n1", "b", 3},
		"one layer is":                    {"n3", "a", 20},
		"a node nobody knows":             {"n9", "a", 120},
		"an image nobody knows":           {"n2", "c", 1},
		"of which only the size is known": {"n2", "d", 500},
	} {
		if name == "of which only the size is known" {
			v.set("n4", map[string]int64{"d": 500})
		}
		if got := v.missing(tt.node, tt.image); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	// All layers are there, but not the image: its configuration is missing.
	v.learn("e", []Layer{base})
	if got := v.missing("n1", "e"); got != 1 {
		t.Errorf("an image of known layers: %d", got)
	}
	v.drop("n1")
	if got := v.missing("n1", "a"); got != 120 {
		t.Errorf("after its node went: %d", got)
	}
}
