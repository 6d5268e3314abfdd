package router

import (
	"slices"
	"strings"
	"testing"
)

func TestCheckNodeURL(t *testing.T) {
	tests := map[string]struct {
		url, address string
		tunnel       bool
		bad          []string // fields
	}{
		"ssh":                       {url: "ssh://root@10.0.0.7"},
		"ssh with port and socket":  {url: "ssh://app@node1.example.com:2222/run/user/1000/podman/podman.sock"},
		"ssh through the tunnel":    {url: "ssh://root@10.0.0.7", tunnel: true},
		"unix":                      {url: "unix:///run/podman/podman.sock"},
		"tcp with an address":       {url: "tcp://10.0.0.7:2376", address: "10.0.0.7"},
		"an IPv6 address":           {url: "ssh://root@[fd00::7]", address: "fd00::7"},
		"a password":                {url: "ssh://root:secret@10.0.0.7", bad: []string{"url"}},
		"no user":                   {url: "ssh://10.0.0.7", bad: []string{"url"}},
		"no port":                   {url: "tcp://10.0.0.7", bad: []string{"url"}},
		"another scheme":            {url: "https://10.0.0.7", bad: []string{"url"}},
		"no URL":                    {url: "", bad: []string{"url"}},
		"not to be read":            {url: "ssh://root@[::1", bad: []string{"url"}},
		"a unix socket with a host": {url: "unix://run/podman.sock", bad: []string{"url"}},
		"a tunnel without SSH":      {url: "unix:///x", tunnel: true, bad: []string{"tunnel"}},
		"all addresses":             {url: "ssh://root@a", address: "0.0.0.0", bad: []string{"address"}},
		"a name as address":         {url: "ssh://root@a", address: "node1", bad: []string{"address"}},
		"everything at once":        {url: "tcp://a", address: "x", tunnel: true, bad: []string{"url", "address", "tunnel", "address"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var fields []string
			for _, v := range CheckNodeURL(tt.url, tt.address, tt.tunnel) {
				fields = append(fields, v.Field)
				if v.Limit == "" || v.Remedy == "" || strings.Contains(v.Value, "secret") {
					t.Errorf("%+v", v)
				}
			}
			if !slices.Equal(fields, tt.bad) {
				t.Errorf("refused are %v, want %v", fields, tt.bad)
			}
		})
	}
}
