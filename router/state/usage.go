package state

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fluxgate/fluxgate/router"
)

// usageTTL is how long what a node's instances use is believed.
const usageTTL = 30 * time.Second

type usageRecord struct {
	stamp
	By        string                         `json:"by"`
	Instances map[string]instanceUsageRecord `json:"instances"`
}

type instanceUsageRecord struct {
	At          time.Time     `json:"at"`
	CPU         float64       `json:"cpu"`
	CPUTime     time.Duration `json:"cpu_time"` // nanoseconds
	CPULimit    float64       `json:"cpu_limit,omitempty"`
	Memory      router.Bytes  `json:"memory"`
	MemoryPeak  router.Bytes  `json:"memory_peak"`
	MemoryLimit router.Bytes  `json:"memory_limit,omitempty"`
}

// PutUsage stores what a node's instances use, for half a minute; it replaces
// what was stored.
func (s *Store) PutUsage(ctx context.Context, node string, u router.NodeUsage) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r := usageRecord{current, u.By, make(map[string]instanceUsageRecord, len(u.Instances))}
	for id, one := range u.Instances {
		one.At = one.At.UTC()
		r.Instances[id] = instanceUsageRecord(one)
	}
	return s.fail(ctx, "storing what instances use", s.client.Set(ctx, s.keys.usage(node), encode(r), usageTTL).Err())
}

// Usage is what the instances of nodes use, by node; those of which nothing was
// stored lately are left out. It is one round trip.
func (s *Store) Usage(ctx context.Context, nodes []string) (map[string]router.NodeUsage, error) {
	found := make(map[string]router.NodeUsage, len(nodes))
	if len(nodes) == 0 {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	replies := make([]*redis.StringCmd, len(nodes))
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, node := range nodes {
			replies[i] = p.Get(ctx, s.keys.usage(node))
		}
		return nil
	})
	if err != nil && err != redis.Nil { //nolint:errorlint // the library returns it as it is
		return nil, s.fail(ctx, "reading what instances use", err)
	}
	for i, node := range nodes {
		text, err := replies[i].Result()
		if err != nil {
			continue
		}
		r, err := decode[usageRecord]("what instances on node "+node+" use", text)
		if err != nil {
			return nil, err
		}
		u := router.NodeUsage{By: r.By, Instances: make(map[string]router.Usage, len(r.Instances))}
		for id, one := range r.Instances {
			u.Instances[id] = router.Usage(one)
		}
		found[node] = u
	}
	return found, nil
}
