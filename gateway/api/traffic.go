package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/fluxgate/fluxgate/router"
)

// Traffic is what was recorded of an app's requests, and what was measured of
// the app.
type Traffic struct {
	From     time.Time  `json:"from" doc:"Start of the first second"`
	Requests []int64    `json:"requests" doc:"Requests that came in each second from then on, at all gateways; -1 where no gateway counted"`
	Service  float64    `json:"service_time_ms" doc:"Mean time that a request is served; 0: not measured yet"`
	Starts   StartTimes `json:"start_ms"`
}

// StartTimes are how long an instance takes to be ready, in milliseconds; 0: not
// measured yet.
type StartTimes struct {
	Absent  float64 `json:"absent" doc:"From nothing"`
	Stopped float64 `json:"stopped" doc:"From a stopped container"`
	Frozen  float64 `json:"frozen" doc:"From a frozen container"`
}

// mostTraffic is how far back traffic is recorded by the second.
const mostTraffic = 24 * time.Hour

// unflushed is how long a gateway may take to tell what it counted.
const unflushed = 2 * time.Second

func (s *Server) registerTraffic() {
	type input struct {
		AppPath
		Last string `query:"last" default:"24h" maxLength:"20" doc:"How far back, from 1m to 24h"`
	}
	register(s, huma.Operation{
		OperationID: "traffic", Method: http.MethodGet, Path: "/v1/apps/{app}/traffic", Summary: "The traffic of an app by the second, to rehearse policies on", Tags: []string{"policy"},
	}, func(ctx context.Context, in *input) (Traffic, error) {
		if _, err := s.find(in.App); err != nil {
			return Traffic{}, err
		}
		last, err := router.ParseDuration(in.Last)
		if err != nil || last.D() < time.Minute || last.D() > mostTraffic {
			return Traffic{}, router.Invalid("the time", []router.Violation{{Field: "last", Value: in.Last, Limit: "a duration from 1m to 24h", Remedy: "the default is 24h"}})
		}
		if s.b.Recorder == nil {
			return Traffic{}, router.Errorf(router.CodeUnavailable, "this gateway records no traffic; say --trace FILE and --app FILE")
		}
		to := s.now().Add(-unflushed).Truncate(time.Second)
		t, err := s.b.Recorder.Traffic(ctx, in.App, to.Add(-last.D()), to)
		if err != nil {
			return Traffic{}, err
		}
		if t.Requests == nil {
			t.Requests = []int64{}
		}
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		return Traffic{From: t.From.UTC(), Requests: t.Requests, Service: ms(t.Service), Starts: StartTimes{ms(t.Create), ms(t.Start), ms(t.Thaw)}}, nil
	})
}
