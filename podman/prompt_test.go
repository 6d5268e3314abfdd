package podman

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestPrompt(t *testing.T) {
	slow := errors.New("after the bindings' sleep")
	tests := map[string]struct {
		ends, answers time.Duration // when the context ends, and when the call does
		want          error
		took          time.Duration
	}{
		"the call is given up":      {ends: time.Second, answers: 1600 * time.Millisecond, want: context.DeadlineExceeded, took: time.Second},
		"the call ends in time":     {ends: time.Second, answers: 600 * time.Millisecond, want: slow, took: 600 * time.Millisecond},
		"it was given up before it": {ends: 0, answers: 600 * time.Millisecond, want: context.DeadlineExceeded},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tt.ends)
				defer cancel()
				began, ended := time.Now(), make(chan struct{})
				err := promptly(ctx, func() error {
					defer close(ended)
					time.Sleep(tt.answers)
					return slow
				})
				if took := time.Since(began); !errors.Is(err, tt.want) || took != tt.took {
					t.Errorf("got %v after %s, want %v after %s", err, took, tt.want, tt.took)
				}
				<-ended
			})
		})
	}
}
