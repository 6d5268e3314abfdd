package cli_test

import (
	"os"
	"strings"
	"testing"
)

// TestBusyLease has real instances ask not to be stopped, by the field of an
// answer and by a call of their own, while one that does not ask is frozen.
func TestBusyLease(t *testing.T) {
	m := upMachine(t)
	const quick = "[scale]\nfreeze_after = \"1s\"\n"
	asks := map[string]string{"header": "/busy"}
	if os.Geteuid() == 0 {
		asks["call"] = "/ask" // rootless containers do not reach this machine
	}
	client := m.client()
	for name, path := range asks {
		m.push(name, quick)
		m.get(client, name, "/")
		m.get(client, name, path+"?for=1h")
	}
	m.push("idle", quick)
	m.get(client, "idle", "/")
	m.awaitState("idle", "frozen")
	for name, path := range asks {
		if list := m.ps(name); len(list) != 1 || list[0].State != "ready" {
			t.Errorf("%s was not left alone: %+v", name, list)
		}
		if why := m.run("why", name); !strings.Contains(why, "asks not to be stopped") {
			t.Errorf("why %s does not tell of the lease:\n%s", name, why)
		}
		m.get(client, name, path+"?for=0")
		m.awaitState(name, "frozen")
	}
}
