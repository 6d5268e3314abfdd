package gateway

import (
	"context"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// memStore is a certificate storage in memory, as several gateways would share
// one.
type memStore struct {
	mu    sync.Mutex
	data  map[string][]byte
	locks map[string]chan struct{}
	away  error // of every call from now on
}

var _ certmagic.Storage = (*memStore)(nil)

func newMemStore() *memStore {
	return &memStore{data: map[string][]byte{}, locks: map[string]chan struct{}{}}
}

// leave makes every call fail.
func (s *memStore) leave(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = err
}

func (s *memStore) Lock(ctx context.Context, name string) error {
	for {
		s.mu.Lock()
		if s.away != nil {
			defer s.mu.Unlock()
			return s.away
		}
		held := s.locks[name]
		if held == nil {
			s.locks[name] = make(chan struct{})
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memStore) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.locks[name])
	delete(s.locks, name)
	return nil
}

func (s *memStore) Store(_ context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return s.away
	}
	s.data[key] = append([]byte(nil), value...)
	return nil
}

func (s *memStore) Load(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return nil, s.away
	}
	v, ok := s.data[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return append([]byte(nil), v...), nil
}

func (s *memStore) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.data {
		if k == key || strings.HasPrefix(k, key+"/") {
			delete(s.data, k)
		}
	}
	return nil
}

func (s *memStore) Exists(ctx context.Context, key string) bool {
	_, err := s.Load(ctx, key)
	return err == nil
}

func (s *memStore) List(_ context.Context, prefix string, _ bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.data {
		if strings.HasPrefix(k, prefix+"/") {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

func (s *memStore) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	v, err := s.Load(ctx, key)
	if err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key, Modified: time.Now(), Size: int64(len(v)), IsTerminal: true}, nil
}
