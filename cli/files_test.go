package cli

import (
	"os"
	"strings"
	"testing"

	"github.com/fluxgate/fluxgate/gateway/api"
)

func TestCheckFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		open, limit, nodes int
		status             api.CheckStatus
		remedy             string // part of it
	}{
		"enough":                 {300, 20_000, 10, api.CheckOK, ""},
		"little for the nodes":   {9_000, 20_000, 5_000, api.CheckWarning, "22000 at least"},
		"few left":               {17_000, 20_000, 10, api.CheckWarning, "40000 at least"},
		"little for no node":     {30, 1_024, 0, api.CheckWarning, "2000 at least"},
		"just enough for nodes":  {9_000, 22_000, 5_000, api.CheckOK, ""},
		"few left of very many":  {900_000, 1_000_000, 5_000, api.CheckWarning, "2000000 at least"},
		"the very last is taken": {20_000, 20_000, 1_000, api.CheckWarning, "40000 at least"},
	} {
		t.Run(name, func(t *testing.T) {
			c := checkFiles(tt.open, tt.limit, tt.nodes)
			if c.Status != tt.status || !strings.Contains(c.Remedy, tt.remedy) || (c.Remedy == "") != (tt.status == api.CheckOK) {
				t.Errorf("%+v; want %s with a remedy that says %q", c, tt.status, tt.remedy)
			}
		})
	}
}

func TestOpenFiles(t *testing.T) {
	before, limit, ok := openFiles()
	if !ok {
		t.Skip("it is not known here how many files are open")
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if after, _, _ := openFiles(); after <= before-1 || limit < after {
		t.Errorf("%d files are open, %d before one more was opened; at most %d", after, before, limit)
	}
}
