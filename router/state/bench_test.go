package state

import (
	"fmt"
	"testing"

	"github.com/fluxgate/fluxgate/router"
)

// BenchmarkUpdate is what a wake pays twice: claim, and ready.
func BenchmarkUpdate(b *testing.B) {
	for _, releases := range []int{1, router.KeepReleases} {
		b.Run(fmt.Sprintf("%d releases", releases), func(b *testing.B) {
			s := newStore(b)
			ctx := testContext(b)
			if _, err := s.Update(ctx, "bench", func(st *router.AppState) error {
				for range releases {
					st.AddRelease(filled[router.Release]())
				}
				st.PutInstance(router.Instance{ID: "bench-1-a", State: router.Frozen})
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			for i := 0; b.Loop(); i++ {
				if _, err := s.Update(ctx, "bench", func(st *router.AppState) error {
					st.Instances[0].ExitCode = i
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
