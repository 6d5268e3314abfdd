package podman

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/containers/podman/v4/pkg/bindings/images"

	"github.com/fluxgate/fluxgate/router"
)

// lookAtImages is how often a node's list of images is read: others may add
// and remove some.
const lookAtImages = time.Minute

// inventory knows from memory which images are on which nodes, and what they
// are made of.
type inventory struct {
	mu     sync.Mutex
	layers map[string][]Layer         // by image
	sizes  map[string]int64           // by image, unpacked; where the layers are not known
	nodes  map[string]map[string]bool // images by node
	has    map[string]map[string]bool // layers by node
}

func newInventory() *inventory {
	return &inventory{layers: map[string][]Layer{}, sizes: map[string]int64{}, nodes: map[string]map[string]bool{}, has: map[string]map[string]bool{}}
}

// learn remembers what an image is made of.
func (v *inventory) learn(image string, layers []Layer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(layers) == 0 || v.layers[image] != nil {
		return
	}
	v.layers[image] = layers
	for node, list := range v.nodes {
		if list[image] {
			v.addLayers(node, layers)
		}
	}
}

func (v *inventory) addLayers(node string, layers []Layer) {
	if v.has[node] == nil {
		v.has[node] = map[string]bool{}
	}
	for _, l := range layers {
		v.has[node][l.Digest] = true
	}
}

// add notes that an image has come to a node.
func (v *inventory) add(node, image string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.nodes[node] == nil {
		v.nodes[node] = map[string]bool{}
	}
	v.nodes[node][image] = true
	v.addLayers(node, v.layers[image])
}

// set notes all images of a node, with their sizes.
func (v *inventory) set(node string, sizes map[string]int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.nodes[node], v.has[node] = map[string]bool{}, map[string]bool{}
	for image, size := range sizes {
		v.nodes[node][image] = true
		v.sizes[image] = size
		v.addLayers(node, v.layers[image])
	}
}

func (v *inventory) drop(node string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.nodes, node)
	delete(v.has, node)
}

// missing is what a node lacks of an image.
func (v *inventory) missing(node, image string) router.Bytes {
	if v.nodes[node][image] {
		return 0
	}
	layers, known := v.layers[image]
	if !known {
		return router.Bytes(max(v.sizes[image], 1))
	}
	var sum int64
	for _, l := range layers {
		if !v.has[node][l.Digest] {
			sum += l.Size
		}
	}
	return router.Bytes(max(sum, 1)) // its configuration is always missing
}

// Missing is how many bytes of an image each node would have to fetch before it
// can run it, from memory.
func (p *Pool) Missing(image string) map[string]router.Bytes {
	nodes := p.nodes()
	p.inventory.mu.Lock()
	defer p.inventory.mu.Unlock()
	out := map[string]router.Bytes{}
	for _, n := range nodes {
		if m := p.inventory.missing(n.name, image); m > 0 {
			out[n.name] = m
		}
	}
	return out
}

// watchImages keeps the inventory of a node, until ctx ends.
func (p *Pool) watchImages(ctx context.Context, n *Node) {
	defer p.inventory.drop(n.name)
	wait := n.stagger()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if sizes, err := n.imageSizes(ctx); err == nil {
			p.inventory.set(n.name, sizes)
		}
		wait = n.beat(lookAtImages + rand.N(lookAtImages/4))
	}
}

// imageSizes are the node's images with their sizes.
func (n *Node) imageSizes(ctx context.Context) (map[string]int64, error) {
	ctx, end := n.call(ctx, changeCall)
	defer end()
	defer n.spareFile()
	list, err := images.List(ctx, nil)
	if err != nil {
		return nil, n.engineError(ctx, err)
	}
	sizes := make(map[string]int64, len(list))
	for _, i := range list {
		sizes[imageID(i.ID)] = i.Size
	}
	return sizes, nil
}
