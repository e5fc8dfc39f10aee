// Draws each .chart of the page from the JSON in its data-chart, and again when the page, its colors or its width change.
const smrlCharts = {
  drawn: [],
  // Distances of the ticks between whole numbers.
  steps: Array.from({length: 16}, (_, power) => [1, 2, 5].map(first => first * 10 ** power)).flat(),

  number(value) {
    if (value === null || value === undefined) return '–';
    const size = Math.abs(value);
    if (size > 0 && (size < 1e-3 || size >= 1e9)) return value.toExponential(2);
    return value.toLocaleString('en-US', size >= 1e3 ? {maximumFractionDigits: 0} : {maximumSignificantDigits: 4});
  },

  tick(value) {
    const size = Math.abs(value);
    if (size > 0 && size < 1e-3) return value.toExponential(1).replace('.0e', 'e');
    return value.toLocaleString('en-US', {maximumSignificantDigits: 4, notation: size >= 1e4 ? 'compact' : 'standard'});
  },

  color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  },

  series(plot, at, isMany) {
    const one = plot.series[at];
    const color = one.style === 'goal' ? this.color('goal') : this.color(`c${one.color}`);
    const faint = color + (isMany ? 'a0' : '80');
    const shown = {
      label: one.label, stroke: color, width: 2, spanGaps: true, value: this.text(plot, at),
      points: {show: plot.columns[0].length < 3, size: 7, fill: color},
    };
    if (isMany) return {...shown, width: 1.2, stroke: faint};
    if (one.style === 'thin') return {...shown, width: 1, stroke: faint};
    if (one.style === 'edge') return {...shown, width: 0, points: {show: false}, class: 'edge'};
    if (one.style === 'rest') return {...shown, width: 1.2, dash: [2, 3], class: 'rest'};
    if (one.style === 'goal') return {...shown, width: 1.5, dash: [6, 4]};
    if (one.style === 'dots') return {...shown, width: 0, points: {show: true, size: 8, fill: color}};
    if (one.style === 'steps') return {...shown, paths: uPlot.paths.stepped({align: 1})};
    return shown;
  },

  // The legend's text of a line: its value, and the ends of its band there.
  text(plot, at) {
    const [high, low] = [at - 2, at - 1];
    const hasBand = plot.series[at].style !== 'edge' && plot.series[high]?.style === 'edge' &&
      plot.series[low].style === 'edge';
    return (_chart, value, _series, place) => {
      if (!hasBand || value === null || value === undefined || place === null) return this.number(value);
      const ends = [low, high].map(edge => this.number(plot.columns[edge + 1][place]));
      return `${this.number(value)} (${ends.join(' to ')})`;
    };
  },

  // Consecutive edges are the upper and the lower end of a band.
  bands(plot) {
    const found = [];
    plot.series.forEach((one, at) => {
      if (one.style === 'edge' && plot.series[at + 1]?.style === 'edge' && found.at(-1)?.series[1] !== at + 1)
        found.push({series: [at + 1, at + 2], fill: this.color(`c${one.color}`) + '30'});
    });
    return found;
  },

  whiskers(chart) {
    const context = chart.ctx;
    const [x, high, low] = [chart.data[0], chart.data.at(-2), chart.data.at(-1)];
    context.save();
    context.strokeStyle = this.color('c0');
    context.lineWidth = devicePixelRatio;
    x.forEach((at, place) => {
      if (high[place] === null) return;
      const left = chart.valToPos(at, 'x', true);
      context.beginPath();
      context.moveTo(left, chart.valToPos(low[place], 'y', true));
      context.lineTo(left, chart.valToPos(high[place], 'y', true));
      context.stroke();
    });
    context.restore();
  },

  options(box, content, plot) {
    const text = this.color('quiet');
    const isMany = plot.series.length > 8 && plot.series.every(one => one.style === 'line' && one.color === 0);
    const isSmall = box.classList.contains('small');
    box.classList.toggle('many', isMany);
    const axis = {stroke: text, grid: {stroke: this.color('grid'), width: 1}, ticks: {show: false}, font: '12px system-ui',
      labelFont: '12px system-ui', labelSize: 18};
    const last = plot.columns[0].length - 1;
    const counts = plot.columns[0].every(Number.isInteger);
    const beside = plot.series.some(one => one.style === 'dots') ? 0.5 : 0;  // room for the dots at both ends
    return {
      width: box.clientWidth,
      height: isSmall ? 190 : 320,
      legend: {markers: {width: 2}},
      cursor: {sync: {key: plot.x}, points: {size: 7}, focus: {prox: isMany ? 30 : -1}, y: false},
      focus: {alpha: isMany ? 0.25 : 1},
      scales: {x: {time: false, range: (_, low, high) => low === high ? [low - 1, high + 1] : [low - beside, high + beside]},
        y: {range: (_, low, high) => low === high ? [low - 1, high + 1] : uPlot.rangeNum(low, high, 0.1, true)}},
      axes: [
        {...axis, label: plot.x, space: 60, size: 28, incrs: counts ? this.steps : undefined, values: (_, ticks) => ticks.map(tick => this.tick(tick))},
        {...axis, label: content.y || null, space: 36, values: (_, ticks) => ticks.map(tick => this.tick(tick)),
          size: (_, ticks) => 14 + 7 * Math.max(3, ...(ticks || []).map(tick => tick.length))},
      ],
      series: [{label: plot.x, value: (_, value) => this.number(value)},
        ...plot.series.map((_, at) => this.series(plot, at, isMany))],
      bands: content.spread ? [] : this.bands(plot),
      hooks: {
        ready: [chart => chart.setLegend({idx: last}, false)],
        // Away from the chart, its legend has the last values.
        setCursor: [chart => { if (chart.cursor.idx === null) chart.setLegend({idx: last}, false); }],
        setSeries: [(chart, focused) => chart.root.querySelectorAll('.u-series').forEach((row, at) =>
          row.classList.toggle('focused', at === focused))],
        draw: content.spread ? [chart => this.whiskers(chart)] : [],
      },
    };
  },

  draw() {
    for (const chart of this.drawn) chart.destroy();
    this.drawn = [];
    const axis = document.querySelector('input[name=axis]:checked')?.value;
    for (const box of document.querySelectorAll('.chart')) {
      const content = JSON.parse(box.dataset.chart);
      const plot = content.plots[axis] ?? content.plots[0];
      box.replaceChildren();
      this.drawn.push(new uPlot(this.options(box, content, plot), plot.columns, box));
    }
    this.width = document.querySelector('main').clientWidth;
  },

  start() {
    this.draw();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
    document.addEventListener('change', event => { if (event.target.name === 'axis') this.draw(); });
    addEventListener('resize', () => { if (document.querySelector('main').clientWidth !== this.width) this.draw(); });
  },
};
smrlCharts.start();
