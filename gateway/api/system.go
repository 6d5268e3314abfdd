package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Info is what a client needs to know of the platform.
type Info struct {
	Version   string `json:"version" doc:"The gateway's version"`
	Domain    string `json:"domain" doc:"Apps live at NAME.domain"`
	HTTPSPort int    `json:"https_port"`
	URL       string `json:"url" doc:"The control API's own address"`
	Token     string `json:"token" doc:"Name of the token that asks"`
}

// Check is one thing that doctor looked at.
type Check struct {
	Name   string      `json:"name" doc:"What was checked, e.g. redis or node local"`
	Status CheckStatus `json:"status" enum:"ok,warning,failed"`
	Detail string      `json:"detail" doc:"What was found"`
	Remedy string      `json:"remedy,omitempty" doc:"What to do about it"`
}

// CheckStatus is a check's result.
type CheckStatus string

// The results. A warning costs something but nothing is broken.
const (
	CheckOK      CheckStatus = "ok"
	CheckWarning CheckStatus = "warning"
	CheckFailed  CheckStatus = "failed"
)

// Report is what doctor found.
type Report struct {
	OK     bool    `json:"ok" doc:"Nothing failed"`
	Checks []Check `json:"checks"`
}

type none struct{}

func (s *Server) registerSystem() {
	register(s, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Summary: "Whether the control API answers; needs no token", Tags: []string{"system"},
		Security: []map[string][]string{},
	}, func(context.Context, *none) (map[string]string, error) {
		return map[string]string{"status": "ok"}, nil
	})
	register(s, huma.Operation{
		OperationID: "info", Method: http.MethodGet, Path: "/v1/info", Summary: "The gateway's version and addresses", Tags: []string{"system"},
	}, func(ctx context.Context, _ *none) (Info, error) {
		return Info{
			Version: s.b.Version, Domain: s.b.Domain, HTTPSPort: s.b.HTTPSPort,
			URL: s.url(router.PlatformHost(s.b.Domain)), Token: caller(ctx),
		}, nil
	})
	register(s, huma.Operation{
		OperationID: "doctor", Method: http.MethodGet, Path: "/v1/doctor", Summary: "Check everything that the gateway stands on", Tags: []string{"system"},
	}, func(ctx context.Context, _ *none) (Report, error) {
		report := Report{OK: true, Checks: s.b.Doctor(ctx)}
		if report.Checks == nil {
			report.Checks = []Check{}
		}
		for _, c := range report.Checks {
			report.OK = report.OK && c.Status != CheckFailed
		}
		return report, nil
	})
}

// url is the address of a hostname on this platform.
func (s *Server) url(host string) string {
	if s.b.HTTPSPort == 443 || s.b.HTTPSPort == 0 {
		return "https://" + host
	}
	return fmt.Sprintf("https://%s:%d", host, s.b.HTTPSPort)
}
