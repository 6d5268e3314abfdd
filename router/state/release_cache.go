package state

import (
	"sync"

	"github.com/fluxgate/fluxgate/router"
)

// releaseCache keeps decoded releases. They are most of an app's record and
// never change, while the record is read twice in every wake. A release is
// found by what is stored, so a cached one cannot be out of date. The zero
// cache is empty and ready to use.
type releaseCache struct {
	mu    sync.Mutex
	known map[releaseKey]router.Release
}

type releaseKey struct {
	app    string
	number int
	raw    string
}

const maxCachedReleases = 4096

func (c *releaseCache) decode(app string, number int, raw string) (router.Release, error) {
	key := releaseKey{app, number, raw}
	c.mu.Lock()
	r, ok := c.known[key]
	c.mu.Unlock()
	if ok {
		return r, nil
	}
	r, err := decodeRelease(app, number, raw)
	if err != nil {
		return r, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxCachedReleases {
		c.known = make(map[releaseKey]router.Release) // simpler than to know which are in use; they come again
	}
	c.known[key] = r
	return r, nil
}
