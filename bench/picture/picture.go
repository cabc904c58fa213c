package picture

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Frame is what stands around a picture.
type Frame struct {
	Title, X, Y string
}

// Point is a measured one: Low and High are the range that Y is the median of.
type Point struct{ X, Y, Low, High float64 }

// Line is a curve with its name in the legend.
type Line struct {
	Name   string
	Points []Point
}

// Layer is a part of every bar: one value for each.
type Layer struct {
	Name   string
	Values []float64
}

// ErrEmpty says that there is nothing to draw.
var ErrEmpty = errors.New("nothing to draw")

const (
	width  = 18 * vg.Centimeter
	height = 11 * vg.Centimeter
)

// colours tell lines and layers apart, also for who sees few of them (Okabe and Ito).
func colour(n int) color.Color {
	all := []color.RGBA{
		{0, 114, 178, 255}, {230, 159, 0, 255}, {0, 158, 115, 255}, {213, 94, 0, 255}, {86, 180, 233, 255}, {204, 121, 167, 255}, {240, 228, 66, 255}, {110, 110, 110, 255},
	}
	return all[n%len(all)]
}

func begin(f Frame) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.Title, f.X, f.Y
	p.BackgroundColor = color.White
	p.Legend.Top = true
	p.Y.Min = 0
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	grid.Horizontal.Color = color.Gray{220}
	p.Add(grid)
	return p
}

func finish(w io.Writer, p *plot.Plot) error {
	p.Y.Min = 0
	p.Y.Max *= 1.15 // room for the legend
	c := vgsvg.New(width, height)
	p.Draw(draw.Crop(draw.New(c), vg.Points(5), -vg.Points(10), vg.Points(5), -vg.Points(5)))
	_, err := c.WriteTo(w)
	return err
}

// spread is the form in which the library wants ranges.
type spread struct {
	plotter.XYs
	plotter.YErrors
}

// Curves draws lines.
func Curves(w io.Writer, f Frame, lines []Line) error {
	p := begin(f)
	drawn := 0
	for n, l := range lines {
		s := spread{}
		for _, x := range l.Points {
			if !finite(x.X, x.Y, x.Low, x.High) {
				return fmt.Errorf("draw %s: a point at %v, %v", l.Name, x.X, x.Y)
			}
			s.XYs = append(s.XYs, plotter.XY{X: x.X, Y: x.Y})
			s.YErrors = append(s.YErrors, struct{ Low, High float64 }{x.Y - x.Low, x.High - x.Y})
		}
		if len(s.XYs) == 0 {
			continue
		}
		drawn++
		line, points, err := plotter.NewLinePoints(s.XYs)
		if err != nil {
			return fmt.Errorf("draw %s: %w", l.Name, err)
		}
		bars, err := plotter.NewYErrorBars(s)
		if err != nil {
			return fmt.Errorf("draw %s: %w", l.Name, err)
		}
		line.Color, points.Color, bars.Color = colour(n), colour(n), colour(n)
		line.Width, points.Shape = vg.Points(1.5), draw.CircleGlyph{}
		p.Add(line, points, bars)
		p.Legend.Add(l.Name, line, points)
	}
	if drawn == 0 {
		return fmt.Errorf("draw %s: %w", f.Title, ErrEmpty)
	}
	return finish(w, p)
}

// Stacks draws one bar for each name, made of layers from the bottom up.
func Stacks(w io.Writer, f Frame, names []string, layers []Layer) error {
	if len(names) == 0 || len(layers) == 0 {
		return fmt.Errorf("draw %s: %w", f.Title, ErrEmpty)
	}
	p := begin(f)
	var below *plotter.BarChart
	for n, l := range layers {
		if len(l.Values) != len(names) || !finite(l.Values...) {
			return fmt.Errorf("draw %s: %d values for %d bars, or one that is none", l.Name, len(l.Values), len(names))
		}
		bars, err := plotter.NewBarChart(plotter.Values(slices.Clone(l.Values)), min(vg.Points(24), 0.7*width/vg.Length(len(names)+2)))
		if err != nil {
			return fmt.Errorf("draw %s: %w", l.Name, err)
		}
		bars.Color, bars.LineStyle.Width = colour(n), 0
		if below != nil {
			bars.StackOn(below)
		}
		below = bars
		p.Add(bars)
		p.Legend.Add(l.Name, bars)
	}
	p.NominalX(names...)
	p.X.Tick.Label.Rotation = math.Pi / 5
	p.X.Tick.Label.XAlign, p.X.Tick.Label.YAlign = draw.XRight, draw.YCenter
	p.X.Max += 1 + float64(len(names))/5 // the legend stands there
	return finish(w, p)
}

func finite(all ...float64) bool {
	return !slices.ContainsFunc(all, func(x float64) bool { return math.IsNaN(x) || math.IsInf(x, 0) })
}
