package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/redis/go-redis/v9"
)

// Certificates is the storage for certmagic. All its copies, in all gateways
// on the same Redis and prefix, hold the same.
func (s *Store) Certificates() certmagic.Storage {
	return &certificates{s: s, held: map[string]*lock{}}
}

// certificates keeps values in one hash, by key, and the keys in a sorted set
// whose members all have score 0: Redis sorts those as bytes, so that all keys
// of a folder are one range.
type certificates struct {
	s    *Store
	mu   sync.Mutex
	held map[string]*lock // locks of this process, by name
}

var (
	_ certmagic.Storage   = (*certificates)(nil)
	_ certmagic.TryLocker = (*certificates)(nil)
)

// certRecord holds private keys, too: it must never be logged.
type certRecord struct {
	stamp
	Modified time.Time `json:"modified"`
	Value    []byte    `json:"value"`
}

// String names the storage in certmagic's log.
func (c *certificates) String() string { return "Redis:" + c.s.label }

func clean(key string) string { return strings.Trim(key, "/") }

// folder is the range of the keys below key; everything below "".
func folder(key string) *redis.ZRangeBy {
	if key == "" {
		return &redis.ZRangeBy{Min: "-", Max: "+"}
	}
	return &redis.ZRangeBy{Min: "[" + key + "/", Max: "(" + key + "0"} // '0' follows '/'
}

// Store implements certmagic.Storage.
func (c *certificates) Store(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key = clean(key)
	_, err := c.s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, c.s.keys.certValues(), key, encode(certRecord{current, time.Now().UTC(), value}))
		p.ZAdd(ctx, c.s.keys.certIndex(), redis.Z{Member: key})
		return nil
	})
	return c.s.fail(ctx, "storing "+key, err)
}

// Load implements certmagic.Storage.
func (c *certificates) Load(ctx context.Context, key string) ([]byte, error) {
	r, err := c.read(ctx, clean(key))
	return r.Value, err
}

func (c *certificates) read(ctx context.Context, key string) (certRecord, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := c.s.client.HGet(ctx, c.s.keys.certValues(), key).Result()
	if errors.Is(err, redis.Nil) {
		return certRecord{}, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return certRecord{}, c.s.fail(ctx, "reading "+key, err)
	}
	return decode[certRecord](key, raw)
}

var deleteCertScript = redis.NewScript(`
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1])
for _, key in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], ARGV[3])) do
  redis.call('HDEL', KEYS[2], key)
  redis.call('ZREM', KEYS[1], key)
end
return 1`)

// Delete implements certmagic.Storage.
func (c *certificates) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key = clean(key)
	below := folder(key)
	err := deleteCertScript.Run(ctx, c.s.client, []string{c.s.keys.certIndex(), c.s.keys.certValues()}, key, below.Min, below.Max).Err()
	return c.s.fail(ctx, "deleting "+key, err)
}

// Exists implements certmagic.Storage. It has no way to tell an error, and
// says no.
func (c *certificates) Exists(ctx context.Context, key string) bool {
	_, err := c.Stat(ctx, key)
	return err == nil
}

// Stat implements certmagic.Storage.
func (c *certificates) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	key = clean(key)
	r, err := c.read(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: r.Modified, Size: int64(len(r.Value)), IsTerminal: true}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return certmagic.KeyInfo{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	below := folder(key)
	below.Count = 1
	keys, err2 := c.s.client.ZRangeByLex(ctx, c.s.keys.certIndex(), below).Result()
	switch {
	case err2 != nil:
		return certmagic.KeyInfo{}, c.s.fail(ctx, "reading "+key, err2)
	case len(keys) == 0:
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key}, nil
}

// List implements certmagic.Storage. As certmagic's own file storage does, it
// lists folders, too, and a recursive one what is in them.
func (c *certificates) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	prefix = clean(prefix)
	keys, err := c.s.client.ZRangeByLex(ctx, c.s.keys.certIndex(), folder(prefix)).Result()
	if err != nil {
		return nil, c.s.fail(ctx, "listing "+prefix, err)
	}
	if len(keys) == 0 {
		if _, err := c.read(ctx, prefix); err != nil {
			return nil, err
		}
		return nil, nil
	}
	seen := map[string]bool{}
	for _, key := range keys {
		below := strings.Split(strings.TrimPrefix(strings.TrimPrefix(key, prefix), "/"), "/")
		for depth := range below {
			if depth > 0 && !recursive {
				break
			}
			seen[path.Join(prefix, path.Join(below[:depth+1]...))] = true
		}
	}
	found := make([]string, 0, len(seen))
	for key := range seen {
		found = append(found, key)
	}
	slices.Sort(found)
	return found, nil
}
