package gateway

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/smolvm/smolvm"
	"github.com/smolvm/smolvm/api"
	"github.com/smolvm/smolvm/internal/apikey"
)

// metrics are what /metrics shows, in the words of Prometheus.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	under    prometheus.Gauge
}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "smolvm_http_requests_total", Help: "Requests that were answered, by route and status.",
		}, []string{"route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "smolvm_http_request_seconds", Help: "How long answers took, streams to their end.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100, 300},
		}, []string{"route"}),
		under: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "smolvm_http_requests_under_way", Help: "Requests that are being answered.",
		}),
	}
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f()) })
	}
	m.registry.MustRegister(m.requests, m.seconds, m.under,
		gauge("smolvm_http_connections", "Connections that are open.", s.conns.count),
		gauge("smolvm_leases", "Leases that are open.", s.leases.count),
		gauge("smolvm_leased_sandboxes", "Sandboxes that end with a lease.", s.leases.held),
		sandboxCounter{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// count counts a request that was answered. Requests that no route fits are one row:
// what strangers ask for makes no rows.
func (m *metrics) count(x *exchange, took time.Duration) {
	route := x.pattern
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(route, strconv.Itoa(x.status)).Inc()
	m.seconds.WithLabelValues(route).Observe(took.Seconds())
}

// sandboxCounter counts the sandboxes when it is asked.
type sandboxCounter struct{ s *Server }

func (sandboxCounter) desc() *prometheus.Desc {
	return prometheus.NewDesc("smolvm_sandboxes", "Sandboxes, by state.", []string{"state"}, nil)
}

// Describe tells what Collect will.
func (c sandboxCounter) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc() }

// scrapeTime bounds the look at all sandboxes, below the usual bound of a scrape.
const scrapeTime = 8 * time.Second

// Collect counts.
func (c sandboxCounter) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	list, err := c.s.client().List(ctx, smolvm.ListOptions{})
	if err != nil {
		c.s.log.Warn("count sandboxes", "error", err)
		return
	}
	counts := map[api.State]int{}
	for _, info := range list {
		counts[info.State]++
	}
	for _, st := range api.States() {
		ch <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(counts[st]), string(st))
	}
}

func (s *Server) metricsRoutes() {
	s.metrics = newMetrics(s)
	h := promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
	stream(s, op{
		ID: "get-metrics", Method: http.MethodGet, Path: "/metrics", Scope: apikey.Read, Tag: tagServer,
		Summary: "Measure the server and count sandboxes, in the text format of Prometheus",
		Answers: map[string]*huma.Schema{typeText: {Type: huma.TypeString}},
	}, func(_ *struct{}, w http.ResponseWriter, r *http.Request) error {
		h.ServeHTTP(w, r)
		return nil
	})
}
