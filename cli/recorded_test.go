package cli_test

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/router"
	"github.com/fluxgate/fluxgate/router/state"
)

// TestRehearseOnAGateway rehearses on what a running gateway has of an app: the
// minutes before, which are put where it records, and the requests that it
// counted itself just now.
func TestRehearseOnAGateway(t *testing.T) {
	m := upMachine(t)
	m.push("steady", "")
	url, err := state.ServerURL(filepath.Join(m.data, "redis"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := state.Open(t.Context(), state.Options{URL: url, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	const rate = 5
	now := time.Now().Truncate(time.Minute)
	for back := 20; back >= 3; back-- {
		seconds := make([]router.Sample, 60)
		for i := range seconds {
			seconds[i] = router.Sample{Requests: rate, Done: rate, Service: rate * 40_000}
		}
		if err := store.RecordMinute(t.Context(), now.Add(time.Duration(-back)*time.Minute), map[string][]router.Sample{"steady": seconds}); err != nil {
			t.Fatal(err)
		}
	}
	type run struct {
		Requests int64
		Peak     int `json:"peak_instances"`
		Timeline [][]float64
	}
	rehearsed := func() (out struct{ Current, Proposed run }) {
		t.Helper()
		if err := json.Unmarshal([]byte(m.run("policy", "rehearse", "steady", "--last", "15m", "--with", "min=2", "--json")), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := rehearsed()
	if least := int64(rate * 60 * 10); before.Current.Requests < least || before.Proposed.Requests != before.Current.Requests || before.Proposed.Peak < 2 || len(before.Current.Timeline) == 0 {
		t.Errorf("%d requests, of which at least %d were recorded: %+v", before.Current.Requests, least, before)
	}
	client := m.client()
	const asked = 400
	for range asked {
		m.get(client, "steady", "/")
	}
	// What the window loses at its beginning meanwhile is less than what came.
	eventually(t, "the requests of just now are in it", func() bool { return rehearsed().Current.Requests > before.Current.Requests+asked/4 })
}
