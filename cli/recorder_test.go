package cli

import (
	"context"
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/fluxgate/fluxgate/autoscale/decide"
	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

var _ api.Recorder = recorder{}

type storedTraffic struct {
	seconds  map[int64]router.Sample
	recorded map[int64]bool
	memory   []byte
}

func (s storedTraffic) Traffic(_ context.Context, _ string, from, to time.Time) ([]router.Sample, error) {
	out := make([]router.Sample, to.Unix()-from.Unix()+1)
	for i := range out {
		out[i] = s.seconds[from.Unix()+int64(i)]
	}
	return out, nil
}

func (s storedTraffic) Recorded(_ context.Context, from, to time.Time) ([]bool, error) {
	out := make([]bool, to.Unix()/60-from.Unix()/60+1)
	for i := range out {
		out[i] = s.recorded[from.Unix()/60+int64(i)]
	}
	return out, nil
}

func (s storedTraffic) Recall(context.Context, []string) (map[string][]byte, error) {
	return map[string][]byte{"a": s.memory}, nil
}

// A rehearsal gets the seconds since recording began, gaps marked, and what was
// measured of the app.
func TestRecorder(t *testing.T) {
	memory, err := json.Marshal(decide.Memory{Times: decide.Times{Thaw: 15 * time.Millisecond, Create: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	s := storedTraffic{
		seconds:  map[int64]router.Sample{90: {Requests: 3, Done: 2, Service: 5000}, 121: {Requests: 1, Done: 2, Service: 3000}, 200: {InFlight: 1}},
		recorded: map[int64]bool{1: true, 3: true},
		memory:   memory,
	}
	got, err := recorder{s}.Traffic(t.Context(), "a", time.Unix(30, 0), time.Unix(239, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := router.Traffic{From: time.Unix(60, 0), Requests: make([]int64, 180), Service: 2 * time.Millisecond, Thaw: 15 * time.Millisecond, Create: time.Second}
	for i := 60; i < 120; i++ {
		want.Requests[i] = router.Unrecorded // the third minute
	}
	want.Requests[30], want.Requests[61] = 3, 1
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if got, err := (recorder{storedTraffic{}}).Traffic(t.Context(), "a", time.Unix(30, 0), time.Unix(239, 0)); err != nil || len(got.Requests) != 0 {
		t.Errorf("nothing was recorded: %+v %v", got, err)
	}
	day, err := recorder{s}.Traffic(t.Context(), "a", time.Unix(0, 0), time.Unix(24*3600, 0))
	if err != nil || len(day.Requests) != 24*3600-59 {
		t.Errorf("a day and a second: %d seconds, %v", len(day.Requests), err)
	}
}
